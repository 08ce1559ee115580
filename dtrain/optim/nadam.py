"""NAdam."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dtrain.autograd import Tensor
from dtrain.backend import Array, xp_of
from dtrain.optim.checks import at_least_zero, betas_in_range, pytorchs
from dtrain.optim.optimizer import Optimizer
from dtrain.optim.terms import descent, move_

__all__ = ["NAdam"]


class NAdam(Optimizer):
    """m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
    p = p - lr ((1 - mu_t) / (1 - M_t) g + mu_(t+1) / (1 - M_(t+1)) m) / (sqrt(v') + eps)

    with v' = v / (1 - b2^t), mu_t = b1 (1 - 0.96^(t momentum_decay) / 2) and M_t = mu_1 ... mu_t (Dozat, ICLR 2016
    workshop). weight_decay * p is added to g first; with decoupled_weight_decay p = p - lr * weight_decay * p
    instead. maximize turns g round. State: exp_avg (m), exp_avg_sq (v), and the number mu_product (M), in double
    precision (PyTorch's has that of its default dtype). Raises ValueError for negative numbers and betas outside
    [0, 1). foreach and capturable change nothing.
    """

    numbers = ("mu_product",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        at_least_zero(lr=lr, eps=eps, weight_decay=weight_decay, momentum_decay=momentum_decay)
        options = {"lr": lr, "betas": betas_in_range(betas), "eps": eps, "weight_decay": weight_decay}
        options |= {"momentum_decay": momentum_decay, "decoupled_weight_decay": decoupled_weight_decay}
        same = pytorchs(foreach=foreach, capturable=capturable, differentiable=differentiable)
        super().__init__(params, {**options, "maximize": maximize, **same})

    def buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def advance(  # type: ignore[override]
        self, numbers: dict[str, float], step: int, *, betas: tuple[float, float], momentum_decay: float, **options: Any
    ) -> dict[str, float]:
        before = 1.0 if step == 1 else numbers["mu_product"]
        return {"mu_product": before * _mu(betas[0], momentum_decay, step)}

    def update(  # type: ignore[override]
        self, p: Array, g: Array, state: dict[str, Any], step: int, *,
        lr: float, betas: tuple[float, float], eps: float, weight_decay: float, momentum_decay: float, maximize: bool,
        decoupled_weight_decay: bool,
    ) -> None:  # fmt: skip
        m, v = state["exp_avg"], state["exp_avg_sq"]
        if weight_decay and decoupled_weight_decay:
            p *= 1 - lr * weight_decay
        g = descent(p, g, 0 if decoupled_weight_decay else weight_decay, maximize)
        move_(m, g, 1 - betas[0])
        move_(v, g * g, 1 - betas[1])
        mu, next_mu = (_mu(betas[0], momentum_decay, t) for t in (step, step + 1))
        product = self.advance(state, step, betas=betas, momentum_decay=momentum_decay)["mu_product"]
        denominator = xp_of(p).sqrt(v / (1 - betas[1] ** step))
        denominator += eps
        change = (1 - mu) / (1 - product) * g
        change += next_mu / (1 - product * next_mu) * m
        change /= denominator
        p -= lr * change


def _mu(beta: float, momentum_decay: float, step: int) -> float:
    return beta * (1 - 0.5 * 0.96 ** (step * momentum_decay))
