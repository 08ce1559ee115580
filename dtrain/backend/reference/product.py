"""Products of matrices of two-byte floats: in float32, rounded once."""

from __future__ import annotations

import numpy as np

from dtrain.backend.halves import halved, widened

__all__ = ["linear", "matmul"]


def matmul(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The product of matrices (..., I, K) and (..., K, J), or of vectors, in x's dtype."""
    return halved(widened(x) @ widened(y), x.dtype)


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """x @ weight.T + bias.  x: (N, I), weight: (O, I), bias: (O,) -> (N, O), in x's dtype"""
    y = widened(x).dot(widened(weight).T)
    if bias is not None:
        y += widened(bias)
    return halved(y, x.dtype)
