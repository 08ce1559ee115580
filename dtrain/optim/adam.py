"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from dtrain.autograd import Tensor
from dtrain.backend import Array, xp_of
from dtrain.optim.checks import at_least_zero, betas_in_range, pytorchs
from dtrain.optim.optimizer import Optimizer

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  p = p - lr m' / (sqrt(v') + eps)

    with m' = m / (1 - b1^t) and v' = v / (1 - b2^t) (Kingma and Ba, arXiv:1412.6980). weight_decay * p
    is added to g first; with decoupled_weight_decay p = p - lr * weight_decay * p instead. amsgrad uses the
    largest v so far (Reddi et al., ICLR 2018); maximize turns g round. lr, and betas, may be Tensors.
    State: exp_avg, exp_avg_sq, max_exp_avg_sq. Raises ValueError for negative numbers and betas outside [0, 1).

    foreach, capturable and fused change nothing, except that a Tensor does not go with foreach=True alone.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        if foreach and not capturable and any(isinstance(x, Tensor) for x in (lr, *betas)):
            raise ValueError(
                "a Tensor as lr or in betas does not go with foreach=True and capturable=False; pass numbers"
            )
        at_least_zero(lr=lr, eps=eps, weight_decay=weight_decay)
        options = {"lr": lr, "betas": betas_in_range(betas), "eps": eps, "weight_decay": weight_decay}
        options |= {"amsgrad": amsgrad, "maximize": maximize, "decoupled_weight_decay": decoupled_weight_decay}
        same = pytorchs(foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused)
        super().__init__(params, {**options, **same})

    def buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def update(  # type: ignore[override]
        self, p: Array, g: Array, state: dict[str, Any], step: int, *,
        lr: float, betas: tuple[float, float], eps: float, weight_decay: float, amsgrad: bool, maximize: bool,
        decoupled_weight_decay: bool,
    ) -> None:  # fmt: skip
        xp = xp_of(p)
        m, v = state["exp_avg"], state["exp_avg_sq"]
        if maximize:
            g = -g
        if weight_decay and decoupled_weight_decay:
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
        # lr m' / (sqrt(v') + eps), with the correction of sqrt(v') taken out of the denominator: a pass less.
        correction = math.sqrt(1 - betas[1] ** step)
        denominator = xp.sqrt(v, out=square)
        denominator += eps * correction
        change = xp.divide(m, denominator, out=denominator)
        change *= lr * correction / (1 - betas[0] ** step)
        p -= change


class AdamW(Adam):
    """m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  p = (1 - lr weight_decay) p - lr m' / (sqrt(v') + eps)

    with m' = m / (1 - b1^t) and v' = v / (1 - b2^t): `Adam` with decoupled_weight_decay, 0.01 unless another is given
    (Loshchilov and Hutter, arXiv:1711.05101). Options, state and errors: see `Adam`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize, capturable=capturable,
            differentiable=differentiable, fused=fused, decoupled_weight_decay=True,
        )  # fmt: skip

    def _load_state(self, given: list[list[dict[str, Any]]]) -> None:
        for group in self.param_groups:  # an Adam's state may have been loaded
            group["decoupled_weight_decay"] = True
        super()._load_state(given)
