"""Floating-point numbers of two bytes: bfloat16 (of the package `ml_dtypes`) and float16.

NumPy converts them fast and computes with them slowly, so they are computed with in float32 and rounded once, at the
end of an op, to nearest, ties to even. That is also what PyTorch does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["HALVES", "bfloat16", "converted", "finfo", "halved", "in_float32", "is_float", "widened"]

#: The upper half of a float32: 8 bits of precision, and float32's range.
bfloat16 = np.dtype(ml_dtypes.bfloat16)
HALVES = (bfloat16, np.dtype(np.float16))
#: NumPy's, which knows bfloat16 too.
finfo = ml_dtypes.finfo


def is_float(dtype: Any) -> bool:
    """Whether numbers of this dtype are floating-point: NumPy's own, or bfloat16."""
    return dtype.kind == "f" or dtype == bfloat16


def widened(x: Any) -> Any:
    """An array of two-byte floats in float32, anything else as it is."""
    return converted(x, np.float32) if getattr(x, "itemsize", 0) == 2 and x.dtype in HALVES else x


def halved(x: Any, dtype: Any) -> Any:
    """An array of float32 in `dtype`, anything else as it is."""
    return converted(x, dtype) if getattr(x, "dtype", None) == np.float32 else x


def converted(x: Any, dtype: Any) -> Any:
    """An array in `dtype`. What is too large becomes infinite, what is no number anything, without a warning."""
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(x, cupy.ndarray):
        from dtrain.backend.cuda import elementwise

        return elementwise.converted(x, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        return x.astype(dtype)


def in_float32(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """`@in_float32 def kernel(x, ...)`: arrays of two-byte floats are computed with in float32. -> x's dtype

    An array that the result may be written to (`out=`) is not used for these.
    """

    @wraps(kernel)
    def call(x: Any, *args: Any, **out: Any) -> Any:
        if x.itemsize != 2 or x.dtype not in HALVES:
            return kernel(x, *args, **out)
        return halved(kernel(widened(x), *map(widened, args)), x.dtype)

    return call
