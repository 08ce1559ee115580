"""Adamax."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dtrain.autograd import Tensor
from dtrain.backend import Array, xp_of
from dtrain.optim.checks import at_least_zero, betas_in_range, pytorchs
from dtrain.optim.optimizer import Optimizer
from dtrain.optim.terms import descent, move_

__all__ = ["Adamax"]


class Adamax(Optimizer):
    """m = b1 m + (1 - b1) g;  u = max(b2 u, |g| + eps);  p = p - lr / (1 - b1^t) m / u

    Kingma and Ba, arXiv:1412.6980, section 7.1. weight_decay * p is added to g first; maximize turns g round.
    State: exp_avg (m), exp_inf (u). Raises ValueError for negative numbers and betas outside [0, 1).
    foreach and capturable change nothing.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        at_least_zero(lr=lr, eps=eps, weight_decay=weight_decay)
        options = {"lr": lr, "betas": betas_in_range(betas), "eps": eps, "weight_decay": weight_decay}
        same = pytorchs(foreach=foreach, differentiable=differentiable, capturable=capturable)
        super().__init__(params, {**options, "maximize": maximize, **same})

    def buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_inf")

    def update(  # type: ignore[override]
        self, p: Array, g: Array, state: dict[str, Any], step: int, *,
        lr: float, betas: tuple[float, float], eps: float, weight_decay: float, maximize: bool,
    ) -> None:  # fmt: skip
        xp = xp_of(p)
        m, u = state["exp_avg"], state["exp_inf"]
        g = descent(p, g, weight_decay, maximize)
        move_(m, g, 1 - betas[0])
        size = abs(g)
        size += eps
        u *= betas[1]
        xp.maximum(u, size, out=u)
        change = xp.divide(m, u, out=size)
        change *= lr / (1 - betas[0] ** step)
        p -= change
