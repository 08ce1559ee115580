"""RAdam."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from dtrain.autograd import Tensor
from dtrain.backend import Array, xp_of
from dtrain.optim.checks import at_least_zero, betas_in_range, pytorchs
from dtrain.optim.optimizer import Optimizer
from dtrain.optim.terms import descent, move_

__all__ = ["RAdam"]


class RAdam(Optimizer):
    """m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  p = p - lr m' r sqrt(1 - b2^t) / (sqrt(v) + eps)

    with m' = m / (1 - b1^t), rho_inf = 2 / (1 - b2) - 1, rho = rho_inf - 2 t b2^t / (1 - b2^t) and
    r^2 = (rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho); where rho is at most 5, p = p - lr m'
    (Liu et al., arXiv:1908.03265). weight_decay * p is added to g first; with decoupled_weight_decay
    p = p - lr * weight_decay * p instead. maximize turns g round. State: exp_avg (m), exp_avg_sq (v).
    Raises ValueError for negative numbers and betas outside [0, 1). foreach and capturable change nothing.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        at_least_zero(lr=lr, eps=eps, weight_decay=weight_decay)
        options = {"lr": lr, "betas": betas_in_range(betas), "eps": eps, "weight_decay": weight_decay}
        options |= {"maximize": maximize, "decoupled_weight_decay": decoupled_weight_decay}
        same = pytorchs(foreach=foreach, capturable=capturable, differentiable=differentiable)
        super().__init__(params, {**options, **same})

    def buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def update(  # type: ignore[override]
        self, p: Array, g: Array, state: dict[str, Any], step: int, *,
        lr: float, betas: tuple[float, float], eps: float, weight_decay: float, maximize: bool,
        decoupled_weight_decay: bool,
    ) -> None:  # fmt: skip
        m, v = state["exp_avg"], state["exp_avg_sq"]
        if weight_decay and decoupled_weight_decay:
            p *= 1 - lr * weight_decay
        g = descent(p, g, 0 if decoupled_weight_decay else weight_decay, maximize)
        move_(m, g, 1 - betas[0])
        move_(v, g * g, 1 - betas[1])
        rate = lr / (1 - betas[0] ** step)
        longest = 2 / (1 - betas[1]) - 1
        rest = 1 - betas[1] ** step
        length = longest - 2 * step * betas[1] ** step / rest
        if length > 5:
            r2 = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            denominator = xp_of(p).sqrt(v)
            denominator += eps
            p -= (rate * math.sqrt(r2 * rest)) * m / denominator
        else:
            p -= rate * m
