"""Sequences of several lengths: padded to one length, or packed step by step, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.autograd import op
from dtrain.backend import xp_of

__all__ = ["pack_rows", "pad_rows"]


def _places(rows: np.ndarray, count: int) -> np.ndarray:
    """Which of `rows` is the place i, for every i below count; len(rows) where none is."""
    places = np.full(count, len(rows), np.int64)
    places[rows] = np.arange(len(rows))
    return places


def _padded(xp: Any, x: Any, rows: np.ndarray, count: int, value: float) -> Any:
    return xp.concatenate([x, xp.zeros_like(x[:1]) + x.dtype.type(value)])[_places(rows, count)]


@op
def pack_rows(x: Any, rows: np.ndarray) -> Any:
    """x[rows]; no row is taken twice. x: (count, ...) -> (len(rows), ...)"""
    return x[rows], lambda g: _padded(xp_of(g), g, rows, len(x), 0)


@op
def pad_rows(x: Any, rows: np.ndarray, count: int, value: float = 0.0) -> Any:
    """`count` rows, those of x at `rows` and `value` elsewhere. x: (len(rows), ...) -> (count, ...)"""
    return _padded(xp_of(x), x, rows, count, value), lambda g: g[rows]
