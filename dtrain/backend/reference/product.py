"""Products of matrices. Those of two-byte floats are computed in float32 and rounded once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from dtrain.backend.halves import HALVES, halved, in_float32, widened
from dtrain.backend.reference.layout import filled

__all__ = ["column_sums", "linear", "matmul", "square_sum"]


def matmul(x: np.ndarray, y: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The product of matrices (..., I, K) and (..., K, J), or of vectors, in x's dtype.

    out: an array that it may be written to, and then is.
    """
    if x.itemsize == 2 and x.dtype in HALVES:
        return halved(widened(x) @ widened(y), x.dtype)
    return x.dot(y, out) if x.ndim == y.ndim == 2 else x @ y


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """x @ weight.T + bias.  x: (N, I), weight: (O, I), bias: (O,) -> (N, O), in x's dtype"""
    if x.itemsize == 2 and x.dtype in HALVES:
        return halved(linear(widened(x), widened(weight), widened(bias)), x.dtype)
    y = x.dot(weight.T)
    if bias is not None:
        y += bias
    return y


@in_float32
def column_sums(x: np.ndarray) -> np.ndarray:
    """(N, O) -> (O,): a product with ones, which BLAS adds up fastest."""
    ones = _ones(len(x), x.dtype) if isinstance(x, np.ndarray) else filled((len(x),), 1, x)
    return ones.dot(x)


@lru_cache(64)
def _ones(n: int, dtype: np.dtype) -> np.ndarray:
    made = np.ones(n, dtype)
    made.flags.writeable = False
    return made


def square_sum(x: np.ndarray) -> np.ndarray:
    """The sum of the squares of all elements, in float32 at least: an array of no dimensions."""
    flat = widened(x).reshape(-1)
    return np.asarray(flat.dot(flat))
