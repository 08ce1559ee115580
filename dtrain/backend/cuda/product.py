"""Products of matrices: by cuBLASLt, or by what CuPy calls where that is not to be had. See `reference/product.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.backend.cuda import cublaslt
from dtrain.backend.halves import HALVES

__all__ = ["linear", "matmul"]


def matmul(x: Any, y: Any, out: Any = None, bias: Any = None) -> Any:
    """The product of matrices (..., I, K) and (..., K, J), or of vectors, in x's dtype; plus bias, (J,), if given.

    out: where that of matrices is to be written.
    """
    if x.ndim < 2 or y.ndim < 2:
        z = matmul(x[None] if x.ndim < 2 else x, y[:, None] if y.ndim < 2 else y)
        z = z[..., 0] if y.ndim < 2 else z
        return z[..., 0] if x.ndim < 2 and y.ndim < 2 else z[..., 0, :] if x.ndim < 2 else z
    if x.dtype in cublaslt.DTYPES and cublaslt.why_not() is None:
        z = cublaslt.product(x, y, bias, out)
        if z is not None:
            return z
    if x.dtype in HALVES and (x.ndim != 2 or y.ndim != 2):
        # CuPy has no batched products of two-byte floats.
        z = (x.astype(np.float32) @ y.astype(np.float32)).astype(x.dtype)
    else:
        z = (x @ y).astype(x.dtype, copy=False)
    if bias is not None:
        z += bias
    if out is not None:
        out[...] = z
    return z if out is None else out


def linear(x: Any, weight: Any, bias: Any) -> Any:
    """x @ weight.T + bias.  x: (N, I), weight: (O, I), bias: (O,) -> (N, O)"""
    return matmul(x, weight.T, bias=bias)
