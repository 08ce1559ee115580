"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dtrain.autograd import Tensor
from dtrain.backend import Array
from dtrain.optim.checks import at_least_zero, pytorchs
from dtrain.optim.optimizer import Optimizer
from dtrain.optim.terms import descent

__all__ = ["SGD"]


class SGD(Optimizer):
    """v = momentum * v + (1 - dampening) * g;  p = p - lr * v   (the first v is g itself)

    With nesterov, p = p - lr * (g + momentum * v). weight_decay * p is added to g first; maximize
    turns g round. PyTorch's form of Sutskever et al., ICML 2013. State: momentum_buffer.
    Raises ValueError for negative numbers, and for nesterov without momentum or with dampening.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float | Tensor = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        at_least_zero(lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(f"nesterov needs momentum > 0 and dampening 0, got {momentum} and {dampening}")
        options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        same = pytorchs(foreach=foreach, differentiable=differentiable, fused=fused)
        super().__init__(params, {**options, "nesterov": nesterov, "maximize": maximize, **same})

    def buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()

    def update(  # type: ignore[override]
        self, p: Array, g: Array, state: dict[str, Any], step: int, *,
        lr: float, momentum: float, dampening: float, weight_decay: float, nesterov: bool, maximize: bool,
    ) -> None:  # fmt: skip
        g = descent(p, g, weight_decay, maximize)
        if momentum:
            v = state["momentum_buffer"]
            if step == 1:
                v[...] = g
            else:
                v *= momentum
                v += g if not dampening else g * (1 - dampening)
            g = g + momentum * v if nesterov else v
        p -= lr * g
