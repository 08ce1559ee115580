"""Kernels of the reference that are no array code: their arrays come to the host, and results go back."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from dtrain.backend import capture

__all__ = ["on_host"]


def on_host(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel, for arrays of CuPy; waits for them."""

    @wraps(kernel)
    def call(*args: Any) -> Any:
        capture.refuse(f"{kernel.__name__} is computed on the host")
        return _to_device(kernel(*map(_to_host, args)))

    return call


def _to_host(x: Any) -> Any:
    if isinstance(x, (tuple, list)):
        return type(x)(map(_to_host, x))
    return x.get() if hasattr(x, "get") and hasattr(x, "dtype") else x


def _to_device(x: Any) -> Any:
    import cupy

    if isinstance(x, (tuple, list)):
        return type(x)(map(_to_device, x))
    return cupy.asarray(x) if isinstance(x, (np.ndarray, np.generic)) else x
