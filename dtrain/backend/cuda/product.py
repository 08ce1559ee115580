"""Products of matrices, by the library that CuPy calls (cuBLAS). See `reference/product.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.backend.halves import HALVES

__all__ = ["linear", "matmul"]


def matmul(x: Any, y: Any) -> Any:
    """The product of matrices (..., I, K) and (..., K, J), or of vectors, in x's dtype."""
    if x.dtype in HALVES and (x.ndim != 2 or y.ndim != 2):
        # CuPy has no batched products of two-byte floats.
        return (x.astype(np.float32) @ y.astype(np.float32)).astype(x.dtype)
    return (x @ y).astype(x.dtype, copy=False)


def linear(x: Any, weight: Any, bias: Any) -> Any:
    """x @ weight.T + bias.  x: (N, I), weight: (O, I), bias: (O,) -> (N, O)"""
    y = matmul(x, weight.T)
    if bias is not None:
        y += bias
    return y
