"""Averages over windows: the reference's, with the counts of elements on the device. See `reference/pooling.py`."""

from __future__ import annotations

from typing import Any

from dtrain.backend import reference

__all__ = ["avg_pool", "avg_pool_grad"]


def avg_pool(x: Any, out: Any, kernel: Any, stride: Any, padding: Any, count: Any) -> Any:
    """Sum over windows / count. x: (N, C, *S), count: out -> (N, C, *out)"""
    import cupy

    return reference.avg_pool(x, out, kernel, stride, padding, cupy.asarray(count))


def avg_pool_grad(g: Any, size: Any, kernel: Any, stride: Any, padding: Any, count: Any) -> Any:
    """Gradient of avg_pool with respect to its input, of `size`."""
    import cupy

    return reference.avg_pool_grad(g, size, kernel, stride, padding, cupy.asarray(count))
