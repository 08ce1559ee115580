"""Averaged stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dtrain.autograd import Tensor
from dtrain.backend import Array
from dtrain.optim.checks import at_least_zero, pytorchs
from dtrain.optim.optimizer import Optimizer
from dtrain.optim.terms import descent, move_

__all__ = ["ASGD"]


class ASGD(Optimizer):
    """p = (1 - lambd eta) p - eta g;  ax = ax + mu (p - ax)

    with eta = lr / (1 + lambd lr t)^alpha and mu = 1 / max(1, t - t0), both after t steps, at first lr and 1
    (Polyak and Juditsky, SIAM J. Control Optim. 1992, in Bottou's form). ax is p itself as long as mu is 1.
    weight_decay * p is added to g first; maximize turns g round. State: ax, and the numbers eta and mu, in double
    precision (PyTorch's have that of its default dtype). Raises ValueError for a negative lr or weight_decay.
    foreach and capturable change nothing.
    """

    numbers = ("eta", "mu")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        at_least_zero(lr=lr, weight_decay=weight_decay)
        options = {"lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay}
        same = pytorchs(foreach=foreach, differentiable=differentiable, capturable=capturable)
        super().__init__(params, {**options, "maximize": maximize, **same})

    def buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("ax",)

    def advance(  # type: ignore[override]
        self, numbers: dict[str, float], step: int, *, lr: float, lambd: float, alpha: float, t0: float, **options: Any
    ) -> dict[str, float]:
        return {"eta": lr / (1 + lambd * lr * step) ** alpha, "mu": 1 / max(1, step - t0)}

    def update(  # type: ignore[override]
        self, p: Array, g: Array, state: dict[str, Any], step: int, *,
        lr: float, lambd: float, alpha: float, t0: float, weight_decay: float, maximize: bool,
    ) -> None:  # fmt: skip
        eta, mu = (lr, 1.0) if step == 1 else (state["eta"], state["mu"])
        g = descent(p, g, weight_decay, maximize)
        p *= 1 - lambd * eta
        p -= eta * g
        if mu == 1:
            state["ax"][...] = p
        else:
            move_(state["ax"], p, mu)
