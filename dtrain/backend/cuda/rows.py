"""Softmax, its loss and layer normalisation; see `reference/logits.py` and `reference/norm.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.backend.cuda.loader import CTYPES, kernel

__all__ = ["cross_entropy", "cross_entropy_grad", "layer_norm", "layer_norm_grad", "log_softmax", "softmax"]

_WARPS = 4  # of a block, a row each
_HELD = 4  # of how many 16 bytes of a row a thread takes care


def _wide(dtype: Any) -> Any:
    return np.float64 if dtype == np.float64 else np.float32


def _run(function: str, rows: int, columns: int, args: tuple[Any, ...]) -> None:
    """Start a kernel of which a team works on each row: a warp, or a block. ROW: how it works is filled in.

    args: those that are arrays, of rows too, come first; all arrays of rows are of the first one's dtype.
    """
    if not rows or not columns:
        return
    arrays = [a for a in args if hasattr(a, "data") and not isinstance(a, np.generic)]
    pack = 16 // next(a.itemsize for a in arrays if a.size == rows * columns)
    whole = columns % pack == 0 and not any(a.data.ptr % 16 for a in arrays)
    packs = columns // pack if whole else columns
    if packs <= 32 * _HELD:
        threads, grid = 32 * _WARPS, -(-rows // _WARPS)
        items = -(-packs // 32)
    else:
        threads, grid = min(1024, -(-packs // _HELD // 32) * 32), rows
        items = -(-packs // threads)
    items = next(n for n in (1, 2, 4, 8, math.inf) if items <= n)
    row = f"{'true' if packs <= 32 * _HELD else 'false'}, {items if whole and items <= 2 * _HELD else 0}"
    kernel("rows", function.replace("ROW", row))((int(grid),), (threads,), args)


def _pointer(x: Any) -> Any:
    """An argument for a pointer that may be null."""
    return np.uintp(0) if x is None else x


def softmax(x: Any, axis: int) -> Any:
    """exp(x) / sum(exp(x)) along axis."""
    return _softmax(x, axis, "false")


def log_softmax(x: Any, axis: int) -> Any:
    """x - log(sum(exp(x))) along axis."""
    return _softmax(x, axis, "true")


def _softmax(x: Any, axis: int, log: str) -> Any:
    import cupy

    if not x.ndim:
        return _softmax(x.reshape(1), 0, log).reshape(())
    last = cupy.ascontiguousarray(cupy.moveaxis(x, axis, -1))
    y = cupy.empty(last.shape, x.dtype)
    columns = last.shape[-1]
    rows = last.size // columns if columns else 0
    sizes = np.int64(rows), np.int64(columns)
    _run(f"softmax<{CTYPES[x.dtype]}, {log}, ROW>", rows, columns, (last, y, *sizes))
    return cupy.moveaxis(y, -1, axis)


def cross_entropy(logits: Any, target: Any, weight: Any, smoothing: float) -> tuple[Any, Any, Any]:
    """The loss of each row. Keeps the logits and the logarithms of the sums of their exponentials."""
    import cupy

    x, dtype = cupy.ascontiguousarray(logits), _wide(logits.dtype)
    rows, columns = x.shape
    loss, log_sums = cupy.empty(rows, x.dtype), cupy.empty(rows, dtype)
    target = cupy.ascontiguousarray(target, dtype=np.int64)
    args = x, target, _pointer(weight), loss, log_sums, np.int64(rows), np.int64(columns), dtype(smoothing)
    _run(f"cross_entropy<{CTYPES[x.dtype]}, ROW>", rows, columns, args)
    return loss, x, log_sums


def cross_entropy_grad(g: Any, e: Any, total: Any, target: Any, weight: Any, smoothing: float) -> Any:
    """Gradient of cross_entropy with respect to the logits; e and total are what that kept."""
    import cupy

    gx, (rows, columns) = cupy.empty(e.shape, e.dtype), e.shape
    g = cupy.ascontiguousarray(cupy.asarray(g, e.dtype))
    target = cupy.ascontiguousarray(target, dtype=np.int64)
    args = e, total, target, _pointer(weight), gx, np.int64(rows), np.int64(columns), _wide(e.dtype)(smoothing)
    _run(f"cross_entropy_grad<{CTYPES[e.dtype]}, ROW>", rows, columns, (g, np.int32(g.ndim and g.size > 1), *args))
    return gx


def layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> tuple[Any, Any]:
    """(x - mean) / sqrt(var + eps) * weight + bias over each row. Keeps x, the means and 1 / sqrt(var + eps)."""
    import cupy

    x, dtype = cupy.ascontiguousarray(x), _wide(x.dtype)
    (rows, columns), P = x.shape, _parameters(x, weight, bias)
    y, means, scales = cupy.empty(x.shape, x.dtype), cupy.empty(rows, dtype), cupy.empty(rows, dtype)
    parameters = [None if p is None else cupy.ascontiguousarray(p, dtype=P) for p in (weight, bias)]
    args = x, *map(_pointer, parameters), y, means, scales, np.int64(rows), np.int64(columns), dtype(eps)
    _run(f"layer_norm<{CTYPES[x.dtype]}, {CTYPES[P]}, ROW>", rows, columns, args)
    return y, (x, means, scales)


def _parameters(x: Any, *given: Any) -> np.dtype:
    """The dtype in which weight and bias are read."""
    dtypes = {p.dtype for p in given if p is not None}
    return dtypes.pop() if len(dtypes) == 1 else np.dtype(_wide(x.dtype)) if dtypes else x.dtype


def layer_norm_grad(g: Any, kept: Any, weight: Any, needs: Sequence[bool]) -> list[Any]:
    """Gradients of layer_norm with respect to x, weight and bias, those that are needed. g: (R, D)"""
    import cupy

    x, means, scales = kept
    g, (rows, columns), C = cupy.ascontiguousarray(g), x.shape, CTYPES[x.dtype]
    sizes = np.int64(rows), np.int64(columns)
    gx = g_weight = g_bias = None
    if needs[0]:
        gx = cupy.empty(x.shape, x.dtype)
        P = _parameters(x, weight)
        args = g, x, _pointer(None if weight is None else cupy.ascontiguousarray(weight, dtype=P)), means, scales, gx
        _run(f"layer_norm_grad<{C}, {CTYPES[P]}, ROW>", rows, columns, (*args, *sizes))
    if needs[1] or needs[2]:
        chunk = max(1, -(-rows // 256), min(16, rows))
        chunks = -(-rows // chunk)
        sums = cupy.zeros((2, chunks, columns), means.dtype)
        if x.size:
            run = kernel("rows", f"layer_norm_weight_grad<{C}>")
            run((-(-columns // 128), chunks), (128,), (g, x, means, scales, *sums, *sizes, np.int64(chunk)))
        g_weight, g_bias = sums.sum(1)
    return [gx, g_weight if needs[1] else None, g_bias if needs[2] else None]
