"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dtrain.autograd import Tensor
from dtrain.backend import Array, xp_of
from dtrain.optim.checks import at_least_zero, pytorchs
from dtrain.optim.optimizer import Optimizer
from dtrain.optim.terms import descent

__all__ = ["RMSprop"]


class RMSprop(Optimizer):
    """v = alpha v + (1 - alpha) g^2;  p = p - lr g / (sqrt(v) + eps)

    Tieleman and Hinton, Coursera lecture 6.5, 2012. centered takes the squared mean of g off v (Graves,
    arXiv:1308.0850); momentum > 0 sums the changes: b = momentum b + g / (...); p = p - lr b.
    weight_decay * p is added to g first; maximize turns g round. State: square_avg (v), momentum_buffer (b), grad_avg.
    Raises ValueError for negative numbers. foreach and capturable change nothing.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        at_least_zero(lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum)
        options = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        same = pytorchs(capturable=capturable, foreach=foreach, differentiable=differentiable)
        super().__init__(params, {**options, "centered": centered, "maximize": maximize, **same})

    def buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        extra = [name for name, on in (("momentum_buffer", group["momentum"]), ("grad_avg", group["centered"])) if on]
        return ("square_avg", *extra)

    def update(  # type: ignore[override]
        self, p: Array, g: Array, state: dict[str, Any], step: int, *,
        lr: float, alpha: float, eps: float, weight_decay: float, momentum: float, centered: bool, maximize: bool,
    ) -> None:  # fmt: skip
        v = state["square_avg"]
        g = descent(p, g, weight_decay, maximize)
        v *= alpha
        v += (1 - alpha) * g * g
        if centered:
            mean = state["grad_avg"]
            mean += (1 - alpha) * (g - mean)
            v = v - mean * mean
        change = g / (xp_of(p).sqrt(v) + eps)
        if momentum:
            b = state["momentum_buffer"]
            b *= momentum
            b += change
            change = b
        p -= lr * change
