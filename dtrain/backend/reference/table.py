"""Tables of vectors, and masks of dropout."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

__all__ = ["add_at", "dropout_mask", "embedding_grad"]


def embedding_grad(g: np.ndarray, index: np.ndarray, rows: int, out: np.ndarray | None = None) -> np.ndarray:
    """Sum of the rows of g that fall on each row of the table. g: (R, D), index: (R,) -> (rows, D)

    out: an array that it may be written to, and then is.
    The sum of a row is that of its own rows of g in the order of their positions, taken by NumPy in
    pairs: it depends neither on scheduling nor on what lies between them.
    """
    order = np.argsort(index, kind="stable")
    present, first = np.unique(index[order], return_index=True)
    table = np.zeros((rows, g.shape[1]), g.dtype) if out is None else out
    if out is not None:
        table[...] = 0
    if len(present):
        table[present] = np.add.reduceat(g[order], first, axis=0)
    return table


def add_at(values: np.ndarray, where: np.ndarray, size: int) -> np.ndarray:
    """`size` zeros to which values are added at `where`, one after the other. values, where: (N,) -> (size,)"""
    flat = np.zeros(size, values.dtype)
    np.add.at(flat, where, values)
    return flat


def dropout_mask(draw: Callable[[], np.random.Generator], shape: tuple[int, ...], p: float) -> np.ndarray:
    """True where an element is kept: word i of the stream (32 bits, little end first) >= p * 2^32. draw: makes it."""
    n = math.prod(shape)
    words = np.asarray(draw().bit_generator.random_raw((n + 1) // 2), np.uint64).astype("<u8", copy=False)
    return (words.view("<u4")[:n] >= np.uint32(min(p * 2**32, 2**32 - 1))).reshape(shape)
