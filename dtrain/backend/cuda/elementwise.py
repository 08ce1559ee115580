"""Sums, ReLU, erf, GELU and other dtypes; see `reference/elementwise.py`. GELU keeps its input, not the slope."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.backend.cuda.loader import CTYPES, blocks, kernel
from dtrain.backend.halves import HALVES

__all__ = ["add", "converted", "erf", "gelu", "gelu_grad", "relu", "relu_grad", "rows_of"]

_THREADS = 256
_FEW = 1 << 16  # elements that CuPy converts as fast


def _elementwise(function: str, *arrays: Any) -> Any:
    """The function of each element of arrays of one shape, computed with in float32 at least, in their dtype.

    An array whose memory is whole, in whatever order of dimensions, is gone through in that order.
    """
    import cupy

    first = arrays[0]
    order = _order(first)
    views = [cupy.ascontiguousarray(a.transpose(order)) for a in arrays] if order else list(arrays)
    y = cupy.empty(views[0].shape, first.dtype)
    if y.size:
        # Memory that CuPy allots lies on 512 bytes; a view may begin anywhere.
        aligned = not any(a.data.ptr % 16 for a in (*views, y))
        packs = y.size * y.itemsize // 16 if aligned else 0
        kind = "unary" if len(arrays) == 1 else "binary"
        run = kernel("elementwise", f"{kind}<{function}, {CTYPES[first.dtype]}>")
        pieces = -(-y.size * y.itemsize // 16)
        run(blocks(pieces, _THREADS), (_THREADS,), (*views, y, np.int64(y.size), np.int64(packs)))
    return y.transpose(np.argsort(order).tolist()) if y.ndim else y


def _order(x: Any) -> list[int]:
    """The dimensions of an array, from that whose elements are furthest from each other in memory."""
    return sorted(range(x.ndim), key=lambda d: -x.strides[d])


def converted(x: Any, dtype: Any) -> Any:
    """x in another dtype, in the same order in memory."""
    import cupy

    order, dtype = _order(x), np.dtype(dtype)
    view = x.transpose(order) if order else x
    quick = dtype != x.dtype and {dtype, x.dtype} <= {np.dtype(np.float32), *HALVES}
    if not quick or x.size < _FEW:
        return x.astype(dtype)
    if not view.flags.c_contiguous:
        return rows_of(x, dtype, *x.shape) if x.ndim == 2 and x.strides[1] == x.itemsize else x.astype(dtype)
    y = cupy.empty(view.shape, dtype)
    eights = 0 if x.data.ptr % 16 else x.size // 8
    run = kernel("elementwise", f"convert<{CTYPES[x.dtype]}, {CTYPES[dtype]}>")
    run(blocks(-(-x.size // 8), _THREADS), (_THREADS,), (view, y, np.int64(x.size), np.int64(eights)))
    return y.transpose(np.argsort(order).tolist())


def rows_of(x: Any, dtype: Any, rows: int, columns: int) -> Any:
    """A matrix, whose rows may lie apart, in another dtype and one after another, with zeros up to (rows, columns)."""
    import cupy

    x = x if x.strides[1] == x.itemsize and not x.strides[0] % x.itemsize else cupy.ascontiguousarray(x)
    y = cupy.empty((rows, columns), dtype)
    ints = (
        np.int32(len(x)),
        np.int32(x.shape[1]),
        np.int64(x.strides[0] // x.itemsize),
        np.int32(rows),
        np.int32(columns),
    )
    run = kernel("elementwise", f"convert_rows<{CTYPES[x.dtype]}, {CTYPES[y.dtype]}>")
    run((-(-columns // (8 * _THREADS)), min(rows, 65535)), (_THREADS,), (x, y, *ints))
    return y


def add(x: Any, y: Any) -> Any:
    """x + y, of one shape and dtype, in x's order in memory, which CuPy keeps only where it is that of the indices."""
    halves = x.dtype in HALVES
    if not halves and (x.dtype.kind != "f" or x.flags.c_contiguous and y.flags.c_contiguous):
        return x + y
    return _elementwise("Add", x, y)


def relu(x: Any) -> Any:
    """max(x, 0); NaN stays NaN."""
    return _elementwise("Relu", x) if x.dtype.kind != "i" and x.dtype.kind != "u" else x.clip(0)


def relu_grad(g: Any, y: Any) -> Any:
    """g where y = relu(x) is not 0, else 0."""
    return _elementwise("ReluGrad", g.astype(y.dtype, copy=False), y)


def erf(x: Any) -> Any:
    """The error function."""
    return _elementwise("Erf", x)


def gelu(x: Any) -> tuple[Any, Any]:
    """x * Phi(x); and x, for the gradient."""
    return _elementwise("Gelu", x), x


def gelu_grad(g: Any, kept: Any) -> Any:
    """The gradient of gelu."""
    return _elementwise("GeluGrad", g, kept)
