"""Adagrad."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dtrain.autograd import Tensor
from dtrain.backend import Array, xp_of
from dtrain.optim.checks import at_least_zero, pytorchs
from dtrain.optim.optimizer import Optimizer
from dtrain.optim.terms import descent

__all__ = ["Adagrad"]


class Adagrad(Optimizer):
    """s = s + g^2;  p = p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)

    Duchi et al., JMLR 2011. s begins with initial_accumulator_value. weight_decay * p is added to g first;
    maximize turns g round. State: sum (s). Raises ValueError for negative numbers. foreach and fused change nothing.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        options = {"lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay}
        options["initial_accumulator_value"] = initial_accumulator_value
        at_least_zero(**options)
        same = pytorchs(foreach=foreach, differentiable=differentiable, fused=fused)
        super().__init__(params, {**options, "maximize": maximize, **same})

    def buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("sum",)

    def update(  # type: ignore[override]
        self, p: Array, g: Array, state: dict[str, Any], step: int, *,
        lr: float, lr_decay: float, weight_decay: float, initial_accumulator_value: float, eps: float, maximize: bool,
    ) -> None:  # fmt: skip
        s = state["sum"]
        g = descent(p, g, weight_decay, maximize)
        if step == 1:
            s[...] = initial_accumulator_value
        s += g * g
        change = g / (xp_of(p).sqrt(s) + eps)
        change *= lr / (1 + (step - 1) * lr_decay)
        p -= change
