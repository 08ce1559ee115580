"""Rprop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dtrain.autograd import Tensor
from dtrain.backend import Array, xp_of
from dtrain.optim.checks import at_least_zero, pytorchs
from dtrain.optim.optimizer import Optimizer
from dtrain.optim.terms import descent

__all__ = ["Rprop"]


class Rprop(Optimizer):
    """s = s etas[1] where g has the sign that it had before, s etas[0] where it has the other;  p = p - s sign(g)

    Resilient backpropagation (Riedmiller and Braun, ICNN 1993): s begins with lr and stays within step_sizes; where
    the sign has changed, g counts as 0 in this step and the next. maximize turns g round. State: prev (g), step_size
    (s). Raises ValueError for a negative lr and unless 0 < etas[0] < 1 < etas[1]. foreach and capturable
    change nothing.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        at_least_zero(lr=lr)
        if not 0 < etas[0] < 1 < etas[1]:
            raise ValueError(f"etas must be a number between 0 and 1 and one above 1, got {etas}")
        options = {"lr": lr, "etas": etas, "step_sizes": step_sizes, "maximize": maximize}
        same = pytorchs(foreach=foreach, differentiable=differentiable, capturable=capturable)
        super().__init__(params, {**options, **same})

    def buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("prev", "step_size")

    def update(  # type: ignore[override]
        self, p: Array, g: Array, state: dict[str, Any], step: int, *,
        lr: float, etas: tuple[float, float], step_sizes: tuple[float, float], maximize: bool,
    ) -> None:  # fmt: skip
        xp = xp_of(p)
        before, size = state["prev"], state["step_size"]
        g = descent(p, g, 0, maximize)
        if step == 1:
            size[...] = lr
        agreement = g * before
        size *= xp.where(agreement > 0, etas[1], xp.where(agreement < 0, etas[0], 1.0)).astype(g.dtype)
        xp.clip(size, *step_sizes, out=size)
        g = xp.where(agreement < 0, g.dtype.type(0), g)
        p -= xp.sign(g) * size
        before[...] = g
