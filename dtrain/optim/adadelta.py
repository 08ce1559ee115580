"""Adadelta."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dtrain.autograd import Tensor
from dtrain.backend import Array, xp_of
from dtrain.optim.checks import at_least_zero, pytorchs
from dtrain.optim.optimizer import Optimizer
from dtrain.optim.terms import descent, move_

__all__ = ["Adadelta"]


class Adadelta(Optimizer):
    """v = rho v + (1 - rho) g^2;  d = sqrt(u + eps) / sqrt(v + eps) g;  u = rho u + (1 - rho) d^2;  p = p - lr d

    Zeiler, arXiv:1212.5701. weight_decay * p is added to g first; maximize turns g round.
    State: square_avg (v), acc_delta (u). Raises ValueError for negative numbers and rho above 1.
    foreach and capturable change nothing.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        at_least_zero(lr=lr, rho=rho, eps=eps, weight_decay=weight_decay)
        if rho > 1:
            raise ValueError(f"rho must be between 0 and 1, got {rho}")
        options = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        same = pytorchs(capturable=capturable, foreach=foreach, differentiable=differentiable)
        super().__init__(params, {**options, **same})

    def buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("square_avg", "acc_delta")

    def update(  # type: ignore[override]
        self, p: Array, g: Array, state: dict[str, Any], step: int, *,
        lr: float, rho: float, eps: float, weight_decay: float, maximize: bool,
    ) -> None:  # fmt: skip
        xp = xp_of(p)
        v, u = state["square_avg"], state["acc_delta"]
        g = descent(p, g, weight_decay, maximize)
        move_(v, g * g, 1 - rho)
        change = xp.sqrt(u + eps)
        change /= xp.sqrt(v + eps)
        change *= g
        move_(u, change * change, 1 - rho)
        p -= lr * change
