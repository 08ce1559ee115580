"""Adafactor."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from dtrain.autograd import Tensor
from dtrain.backend import Array, xp_of
from dtrain.optim.checks import at_least_zero, pytorchs
from dtrain.optim.optimizer import Optimizer
from dtrain.optim.terms import descent, move_, norm

__all__ = ["Adafactor"]


class Adafactor(Optimizer):
    """r = (1 - s) r + s mean over columns of g^2;  c = (1 - s) c + s mean over rows of g^2;  v = r c / mean(r);
    u = g / sqrt(v);  p = p - max(eps[1], RMS(p)) min(lr, 1 / sqrt(t)) u / max(1, RMS(u) / d)

    with s = t^beta2_decay (Shazeer and Stern, arXiv:1804.04235, in PyTorch's form). Of a matrix, and of the last two
    dimensions of an array, only the means r (..., R, 1) and c (..., 1, C) are kept; v of a vector is (1 - s) v + s g^2.
    eps[0], where None the precision of the dtype, is the least of mean(r) and of sqrt(v).
    p = p - lr * weight_decay * p first; maximize turns g round. State: row_var (r) and col_var (c), or variance (v).

    The update depends on norms of a parameter, so ZeroRedundancyOptimizer refuses it. Raises ValueError for negative
    numbers, a positive beta2_decay and d below 1. foreach changes nothing.
    """

    elementwise = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        at_least_zero(lr=lr, weight_decay=weight_decay, **{"eps[0]": eps[0] or 0.0, "eps[1]": eps[1]})
        if not beta2_decay <= 0:
            raise ValueError(f"beta2_decay must be at most 0, got {beta2_decay}")
        if not d >= 1:
            raise ValueError(f"d, above which updates are clipped, must be at least 1, got {d}")
        options = {"lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d, "weight_decay": weight_decay}
        super().__init__(params, {**options, **pytorchs(foreach=foreach), "maximize": maximize})

    def buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("row_var", "col_var", "variance")

    def shapes(self, shape: tuple[int, ...], group: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        if len(shape) < 2:
            return {"variance": shape}
        return {"row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1])}

    def update(  # type: ignore[override]
        self, p: Array, g: Array, state: dict[str, Any], step: int, *,
        lr: float, beta2_decay: float, eps: tuple[float | None, float], d: float, weight_decay: float, maximize: bool,
    ) -> None:  # fmt: skip
        xp = xp_of(p)
        least = float(xp.finfo(p.dtype).eps) if eps[0] is None else eps[0]
        share = step**beta2_decay
        rate = max(eps[1], norm(p) / math.sqrt(p.size)) * min(lr, 1 / math.sqrt(step))
        if weight_decay:
            p *= 1 - lr * weight_decay
        g = descent(p, g, 0, maximize)
        square = g * g
        if p.ndim > 1:
            rows, columns = state["row_var"], state["col_var"]
            move_(rows, square.mean(axis=-1, keepdims=True), share)
            move_(columns, square.mean(axis=-2, keepdims=True), share)
            v = rows * columns
            v /= xp.maximum(rows.mean(axis=-2, keepdims=True), least)
        else:
            move_(state["variance"], square, share)
            v = state["variance"]
        change = g / xp.sqrt(xp.maximum(v, least * least))
        change = change * (rate / max(1.0, norm(change) / (math.sqrt(change.size) * d)))
        p -= change
