"""Products of matrices. Those of two-byte floats are computed in float32 and rounded once."""

from __future__ import annotations

import numpy as np

from dtrain.backend.halves import HALVES, halved, widened

__all__ = ["linear", "matmul"]


def matmul(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The product of matrices (..., I, K) and (..., K, J), or of vectors, in x's dtype."""
    return halved(widened(x) @ widened(y), x.dtype) if x.dtype in HALVES else x @ y


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """x @ weight.T + bias.  x: (N, I), weight: (O, I), bias: (O,) -> (N, O), in x's dtype"""
    if x.dtype in HALVES:
        return halved(linear(widened(x), widened(weight), widened(bias)), x.dtype)
    y = x.dot(weight.T)
    if bias is not None:
        y += bias
    return y
