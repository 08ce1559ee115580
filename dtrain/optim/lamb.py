"""LAMB, for large batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dtrain.autograd import Tensor
from dtrain.backend import Array, xp_of
from dtrain.optim.checks import at_least_zero, betas_in_range
from dtrain.optim.optimizer import Optimizer
from dtrain.optim.terms import move_, norm

__all__ = ["LAMB"]


class LAMB(Optimizer):
    """m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  u = m' / (sqrt(v') + eps) + weight_decay p;  p = p - lr r u

    with m' = m / (1 - b1^t), v' = v / (1 - b2^t) and r = |p| / |u| for each parameter, 1 where |p| or |u| is 0
    (You et al., arXiv:1904.00962, phi the identity). maximize turns g round. State: exp_avg (m), exp_avg_sq (v),
    as Adam's. adapt=False makes r = 1, which is AdamW; biases and parameters of normalization layers are usually
    in a group with adapt=False and weight_decay=0, see LARS.

    r needs the norm of a whole parameter, so ZeroRedundancyOptimizer refuses it. Raises ValueError for negative
    numbers and betas outside [0, 1).
    """

    elementwise = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        *,
        adapt: bool = True,
        maximize: bool = False,
    ) -> None:
        at_least_zero(lr=lr, eps=eps, weight_decay=weight_decay)
        options = {"lr": lr, "betas": betas_in_range(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "adapt": adapt, "maximize": maximize})

    def buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def update(  # type: ignore[override]
        self, p: Array, g: Array, state: dict[str, Any], step: int, *,
        lr: float, betas: tuple[float, float], eps: float, weight_decay: float, adapt: bool, maximize: bool,
    ) -> None:  # fmt: skip
        m, v = state["exp_avg"], state["exp_avg_sq"]
        if maximize:
            g = -g
        move_(m, g, 1 - betas[0])
        move_(v, g * g, 1 - betas[1])
        denominator = xp_of(p).sqrt(v / (1 - betas[1] ** step)) + eps
        u = m / (1 - betas[0] ** step) / denominator
        if weight_decay:
            u = u + weight_decay * p
        ratio = 1.0
        if adapt:
            of_p, of_u = norm(p), norm(u)
            ratio = of_p / of_u if of_p > 0 and of_u > 0 else 1.0
        p -= (lr * ratio) * u
