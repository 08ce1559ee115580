"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from dtrain.backend import Array, xp_of
from dtrain.optim.checks import at_least_zero, betas_in_range
from dtrain.optim.optimizer import Optimizer

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  p = p - lr m' / (sqrt(v') + eps)

    with m' = m / (1 - b1^t) and v' = v / (1 - b2^t) (Kingma and Ba, arXiv:1412.6980). weight_decay * p
    is added to g first. amsgrad uses the largest v so far (Reddi et al., ICLR 2018).
    State: exp_avg, exp_avg_sq, max_exp_avg_sq.
    """

    decoupled = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        at_least_zero(lr=lr, eps=eps, weight_decay=weight_decay)
        betas_in_range(betas)
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "amsgrad": amsgrad, "maximize": maximize})

    def buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def update(  # type: ignore[override]
        self, p: Array, g: Array, state: dict[str, Array], step: int, *,
        lr: float, betas: tuple[float, float], eps: float, weight_decay: float, amsgrad: bool, maximize: bool,
    ) -> None:  # fmt: skip
        xp = xp_of(p)
        m, v = state["exp_avg"], state["exp_avg_sq"]
        if maximize:
            g = -g
        if weight_decay and self.decoupled:
            p *= 1 - lr * weight_decay
        elif weight_decay:
            g = g + weight_decay * p
        m *= betas[0]
        m += (1 - betas[0]) * g
        square = g * g
        square *= 1 - betas[1]
        v *= betas[1]
        v += square
        if amsgrad:
            v = xp.maximum(state["max_exp_avg_sq"], v, out=state["max_exp_avg_sq"])
        denominator = xp.sqrt(v, out=square)
        denominator *= 1 / math.sqrt(1 - betas[1] ** step)
        denominator += eps
        change = xp.divide(m, denominator, out=denominator)
        change *= lr / (1 - betas[0] ** step)
        p -= change


class AdamW(Adam):
    """Adam with p = p - lr * weight_decay * p in place of the term in g (Loshchilov and Hutter, arXiv:1711.05101)."""

    decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
