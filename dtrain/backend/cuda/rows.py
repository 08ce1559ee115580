"""Softmax, its loss and layer normalisation; see `reference/logits.py` and `reference/norm.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.backend.cuda.columns import parameters, sums_of
from dtrain.backend.cuda.loader import CTYPES, kernel, pointer, wide, word

__all__ = [
    "cross_entropy",
    "cross_entropy_grad",
    "layer_norm",
    "layer_norm_grad",
    "log_softmax",
    "log_softmax_grad",
    "softmax",
    "softmax_grad",
]

_WARPS = 4  # of a block, a row each
_HELD = 4  # of how many 16 bytes of a row a thread takes care


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
    row = f"{word(packs <= 32 * _HELD)}, {items if whole and items <= 2 * _HELD else 0}"
    kernel("rows", function.replace("ROW", row))((int(grid),), (threads,), args)


def softmax(x: Any, axis: int) -> Any:
    """exp(x) / sum(exp(x)) along axis."""
    return _along("softmax", axis, "false", x)


def log_softmax(x: Any, axis: int) -> Any:
    """x - log(sum(exp(x))) along axis."""
    return _along("softmax", axis, "true", x)


def softmax_grad(g: Any, y: Any, axis: int) -> Any:
    """y (g - sum(g y)) along axis."""
    return _along("softmax_grad", axis, "false", g.astype(y.dtype, copy=False), y)


def log_softmax_grad(g: Any, y: Any, axis: int) -> Any:
    """g - exp(y) sum(g) along axis."""
    return _along("softmax_grad", axis, "true", g.astype(y.dtype, copy=False), y)


def _along(function: str, axis: int, log: str, *arrays: Any) -> Any:
    """What a kernel of rows makes of arrays of one shape and dtype, whose rows lie along axis."""
    import cupy

    if not arrays[0].ndim:
        return _along(function, 0, log, *(x.reshape(1) for x in arrays)).reshape(())
    last = [cupy.ascontiguousarray(cupy.moveaxis(x, axis, -1)) for x in arrays]
    y = cupy.empty(last[0].shape, last[0].dtype)
    columns = y.shape[-1]
    rows = y.size // columns if columns else 0
    _run(f"{function}<{CTYPES[y.dtype]}, {log}, ROW>", rows, columns, (*last, y, np.int64(rows), np.int64(columns)))
    return cupy.moveaxis(y, -1, axis)


def cross_entropy(logits: Any, target: Any, weight: Any, smoothing: float) -> tuple[Any, Any, Any]:
    """The loss of each row, of two-byte logits in float32. Keeps the logits and the logs of sums of exponentials."""
    import cupy

    x, dtype = cupy.ascontiguousarray(logits), wide(logits.dtype)
    rows, columns = x.shape
    loss, log_sums = cupy.empty(rows, dtype), cupy.empty(rows, dtype)
    target = cupy.ascontiguousarray(target, dtype=np.int64)
    args = x, target, pointer(weight), loss, log_sums, np.int64(rows), np.int64(columns), dtype(smoothing)
    _run(f"cross_entropy<{CTYPES[x.dtype]}, ROW>", rows, columns, args)
    return loss, x, log_sums


def cross_entropy_grad(g: Any, e: Any, total: Any, target: Any, weight: Any, smoothing: float) -> Any:
    """Gradient of cross_entropy with respect to the logits; e and total are what that kept."""
    import cupy

    gx, (rows, columns) = cupy.empty(e.shape, e.dtype), e.shape
    g = cupy.ascontiguousarray(cupy.asarray(g, wide(e.dtype)))
    target = cupy.ascontiguousarray(target, dtype=np.int64)
    args = e, total, target, pointer(weight), gx, np.int64(rows), np.int64(columns), wide(e.dtype)(smoothing)
    _run(f"cross_entropy_grad<{CTYPES[e.dtype]}, ROW>", rows, columns, (g, np.int32(g.ndim and g.size > 1), *args))
    return gx


def layer_norm(x: Any, weight: Any, bias: Any, eps: float, centred: bool = True) -> tuple[Any, Any]:
    """(x - mean) / sqrt(var + eps) * weight + bias over each row. centred=False (RMS norm): the mean counts as 0.

    Keeps x, the means, 1 / sqrt(var + eps), and centred.
    """
    import cupy

    x, dtype = cupy.ascontiguousarray(x), wide(x.dtype)
    (weight, bias), P = parameters(x.dtype, weight, bias)
    rows, columns = x.shape
    y, means, scales = cupy.empty(x.shape, x.dtype), cupy.empty(rows, dtype), cupy.empty(rows, dtype)
    args = x, pointer(weight), pointer(bias), y, means, scales, np.int64(rows), np.int64(columns), dtype(eps)
    _run(f"layer_norm<{CTYPES[x.dtype]}, {CTYPES[P]}, {word(centred)}, ROW>", rows, columns, args)
    return y, (x, means, scales, centred)


def layer_norm_grad(g: Any, kept: Any, weight: Any, needs: Sequence[bool]) -> list[Any]:
    """Gradients of layer_norm with respect to x, weight and bias, those that are needed. g: (R, D)"""
    import cupy

    x, means, scales, centred = kept
    g, (rows, columns), C = cupy.ascontiguousarray(g), x.shape, CTYPES[x.dtype]
    sizes = np.int64(rows), np.int64(columns)
    gx = g_weight = g_bias = None
    if needs[0]:
        gx = cupy.empty(x.shape, x.dtype)
        [weight], P = parameters(x.dtype, weight)
        args = g, x, pointer(weight), means, scales, gx
        _run(f"layer_norm_grad<{C}, {CTYPES[P]}, {word(centred)}, ROW>", rows, columns, (*args, *sizes))
    if needs[1] or needs[2]:
        g_bias, g_weight = sums_of("LayerNormSums", 2, g, x, means, scales)
    return [gx, g_weight if needs[1] else None, g_bias if needs[2] else None]
