"""Sums over rows, and batch norm; see `reference/norm.py` and `reference/product.py`.

Images are taken with their channels last in memory, as convolutions leave them; others are copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.backend.cuda.loader import CTYPES, kernel, pointer, wide, word
from dtrain.backend.reference.layout import channel_rows, channels_last

__all__ = [
    "batch_norm", "batch_norm_grad", "batch_norm_grad_sums", "batch_norm_stats", "channel_sums", "column_parts",
    "column_sums", "parameters", "square_sum", "summed", "sums_of",
]  # fmt: skip

_THREADS = 256
# How many blocks a matrix is cut into at most: more than a GPU works on at once, and the same on all GPUs, for the last
# bits of sums depend on it.
_BLOCKS = 512
_LEAST_ROWS = 32  # of a chunk


class _Cut:
    """How threads and blocks lie on a matrix. arrays: all of its dtype and shape; whole: by 16 bytes of a row."""

    def __init__(self, first: Any, *arrays: Any) -> None:
        rows, columns = first.shape
        pack = 16 // first.itemsize
        self.whole = columns % pack == 0 and not any(a.data.ptr % 16 for a in (first, *arrays))
        places = columns // pack if self.whole else columns
        across = 1
        while across < min(32, places):
            across *= 2
        self.block = across, _THREADS // across
        self.columns_of_blocks = -(-places // across)
        chunks = max(1, min(_BLOCKS // self.columns_of_blocks, -(-rows // _LEAST_ROWS)))
        self.chunk = max(1, -(-rows // chunks))
        self.chunks = max(1, -(-rows // self.chunk))
        self.flag = word(self.whole)
        self.sizes = np.int64(rows), np.int64(columns)

    def run(self, function: str, args: tuple[Any, ...]) -> None:
        """Start a kernel whose blocks stride over rows."""
        rows = int(self.sizes[0])
        grid = self.columns_of_blocks, max(1, min(-(-rows // self.block[1]), 4 * _BLOCKS // self.columns_of_blocks))
        kernel("columns", function)(grid, self.block, args)


def column_parts(function: str, count: int, a: Any, b: Any = None, mean: Any = None, scale: Any = None) -> Any:
    """The sums of each chunk of rows, (count, chunks, C), and how it was cut. a, b: (R, C), one after another."""
    import cupy

    cut = _Cut(a) if b is None else _Cut(a, b)
    parts = cupy.zeros((count, cut.chunks, a.shape[1]), wide(a.dtype))
    if a.size:
        run = kernel("columns", f"column_parts<{CTYPES[a.dtype]}, {function}, {cut.flag}>")
        args = a, *map(pointer, (b, mean, scale)), parts, *cut.sizes, np.int64(cut.chunk)
        run((cut.columns_of_blocks, cut.chunks), cut.block, args)
    return parts, cut


def summed(parts: Any) -> list[Any]:
    """(count, chunks, C) -> count times (C,)"""
    import cupy

    count, chunks, columns = parts.shape
    if chunks == 1 or not columns:
        return [part[0] for part in parts]
    sums = cupy.empty((count, columns), parts.dtype)
    run = kernel("columns", f"finish_sums<{CTYPES[parts.dtype]}>")
    for part, out in zip(parts, sums, strict=True):
        run((-(-columns // 4),), (128,), (part, out, np.int64(chunks), np.int64(columns)))
    return list(sums)


def sums_of(function: str, count: int, *arrays: Any) -> list[Any]:
    """The sums over all rows, (C,) each, in float32 at least."""
    return summed(column_parts(function, count, *arrays)[0])


def column_sums(x: Any) -> Any:
    """(N, O) -> (O,), added up in float32 at least."""
    import cupy

    if x.dtype not in CTYPES or x.dtype.kind in "biu":
        return x.sum(0)
    return sums_of("Sums", 1, cupy.ascontiguousarray(x))[0].astype(x.dtype, copy=False)


def channel_sums(x: Any) -> Any:
    """The sum of each channel. (N, C, *S) -> (C,)"""
    return column_sums(channels_last(x).reshape(-1, x.shape[1]))


def _moments(rows: Any, divisor: float, eps: float) -> tuple[Any, Any, Any]:
    """Mean, sum of squares / divisor, and 1 / sqrt(that + eps) of each column."""
    import cupy

    W, columns = wide(rows.dtype), rows.shape[1]
    mean, var, scale = cupy.zeros((3, columns), W)
    if rows.size:
        parts, cut = column_parts("Moments", 2, rows)
        run = kernel("columns", f"finish_moments<{CTYPES[parts.dtype]}>")
        sizes = np.int64(cut.chunks), cut.sizes[1], cut.sizes[0], np.int64(cut.chunk)
        run((-(-columns // 4),), (128,), (parts, mean, var, scale, *sizes, W(divisor), W(eps)))
    return mean, var, scale


def batch_norm(x: Any, weight: Any, bias: Any, mean: Any, var: Any, eps: float) -> tuple[Any, Any, Any, Any]:
    """(x - mean) / sqrt(var + eps) * weight + bias per channel. Keeps the rows of x, means and 1 / sqrt(var + eps)."""
    import cupy

    rows, back = channel_rows(x)
    rows, W = cupy.ascontiguousarray(rows), wide(x.dtype)
    if mean is None or var is None:
        mean, var, scale = _moments(rows, max(1, len(rows)), eps)
    else:
        mean, var = (cupy.ascontiguousarray(p, dtype=W) for p in (mean, var))
        scale = 1 / cupy.sqrt(var + W(eps))
    y = cupy.empty(rows.shape, x.dtype)
    if y.size:
        (weight, bias), P = parameters(x.dtype, weight, bias)
        cut = _Cut(rows, y)
        args = rows, mean, scale, pointer(weight), pointer(bias), y, *cut.sizes
        cut.run(f"batch_norm<{CTYPES[x.dtype]}, {CTYPES[P]}, {cut.flag}>", args)
    return back(y), mean, var, (rows, mean, scale)


def parameters(dtype: Any, *given: Any) -> tuple[list[Any], np.dtype]:
    """Weight and bias as kernels read them, and their dtype; None stays None."""
    import cupy

    dtypes = {p.dtype for p in given if p is not None}
    P = dtypes.pop() if len(dtypes) == 1 else np.dtype(wide(dtype))
    return [None if p is None else cupy.ascontiguousarray(p, dtype=P) for p in given], P


def batch_norm_stats(x: Any) -> tuple[Any, Any]:
    """Per channel, the mean of x and the sum of (x - mean)^2, both 0 where there is no sample. (N, C, ...) -> (C,)"""
    import cupy

    return _moments(cupy.ascontiguousarray(channel_rows(x)[0]), 1, 1)[:2]


def batch_norm_grad_sums(g: Any, kept: Any) -> tuple[Any, Any]:
    """Per channel, the sums of g and of g times the normalised x: the gradients of bias and weight. (C,)"""
    import cupy

    rows, mean, scale = kept
    of_g, of_g_normal = sums_of("BatchNormSums", 2, cupy.ascontiguousarray(channel_rows(g)[0]), rows, mean, scale)
    return of_g, of_g_normal


def batch_norm_grad(
    g: Any, kept: Any, weight: Any, batch_statistics: bool, needs: Sequence[bool], sums: Any = None
) -> list[Any]:
    """Gradients of batch_norm with respect to x, weight and bias, those that are needed."""
    import cupy

    rows, mean, scale = kept
    g_rows, back = channel_rows(g)
    g_rows = cupy.ascontiguousarray(g_rows)
    g_bias = g_weight = gx = None
    if any(needs[1:]) or (batch_statistics and sums is None):
        g_bias, g_weight = sums_of("BatchNormSums", 2, g_rows, rows, mean, scale)
    if needs[0]:
        gx, W = cupy.empty(rows.shape, rows.dtype), wide(rows.dtype)
        of_g, of_g_normal, count = (g_bias, g_weight, len(rows)) if sums is None else sums
        share = W(1 / max(1, count)) if batch_statistics else W(0)
        if gx.size:
            [weight], P = parameters(rows.dtype, weight)
            cut = _Cut(g_rows, rows, gx)
            args = g_rows, rows, mean, scale, *map(pointer, (weight, of_g, of_g_normal)), gx, *cut.sizes, share
            cut.run(f"batch_norm_grad<{CTYPES[rows.dtype]}, {CTYPES[P]}, {cut.flag}>", args)
        gx = back(gx)
    return [gx, g_weight if needs[1] else None, g_bias if needs[2] else None]


def square_sum(x: Any) -> Any:
    """The sum of the squares of all elements, in float32 at least: an array of no dimensions."""
    import cupy

    x = cupy.ascontiguousarray(x)
    parts = cupy.zeros((min(_BLOCKS, max(1, -(-x.size // (4 * _THREADS)))), 1), wide(x.dtype))
    if x.size:
        packs = 0 if x.data.ptr % 16 else x.size * x.itemsize // 16
        run = kernel("columns", f"square_parts<{CTYPES[x.dtype]}>")
        run((len(parts),), (_THREADS,), (x, parts, np.int64(x.size), np.int64(packs)))
    return summed(parts[None])[0][0]
