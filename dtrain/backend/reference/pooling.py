"""Pooling of images of any number of dimensions."""

from __future__ import annotations

import math
from math import prod
from typing import Any

import numpy as np

from dtrain.backend.halves import HALVES, halved, in_float32, widened
from dtrain.backend.reference.layout import (
    Sizes,
    border,
    channels_first,
    channels_last,
    every,
    inside,
    windows,
)  # fmt: skip

__all__ = [
    "adaptive_avg_pool",
    "adaptive_avg_pool_grad",
    "avg_pool",
    "avg_pool_grad",
    "max_places",
    "max_pool",
    "max_pool_grad",
]


def max_pool(
    x: np.ndarray, out: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> tuple[np.ndarray, Any]:
    """Maximum over windows. x: (N, C, *S) -> y (N, C, *out), and what the gradient needs: who won its window.

    The first of equal elements wins, but the last NaN, if there is any, as in PyTorch.
    """
    if x.dtype in HALVES:
        y, kept = max_pool(widened(x), out, kernel, stride, padding, dilation)
        return halved(y, x.dtype), kept
    lowest = -math.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    y = border(channels_last(x), out, kernel, stride, padding, dilation, lowest)
    number = np.min_scalar_type(prod(kernel) - 1).type
    winner: Any = None
    # The maximum of every row of a window, then the maximum of these, and so on: runs of memory stay long.
    for d in reversed(range(len(out))):
        steps = [(slice(None),) * (d + 1) + (every(k * dilation[d], out[d], stride[d]),) for k in range(kernel[d])]
        first = [number(k * prod(kernel[d + 1 :])) for k in range(kernel[d])]
        before = first if winner is None else [winner[s] + f for s, f in zip(steps, first, strict=True)]
        y, winner = _best([y[s] for s in steps], before)
    return channels_first(y), channels_first(winner)


def _best(parts: list[np.ndarray], numbers: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """The elementwise maximum of the parts, and the number of the part that has it; numbers never fall."""
    y = parts[0].copy(order="K")
    winner = np.zeros(y.shape, numbers[0].dtype, like=y) + numbers[0]
    for part, number in zip(parts[1:], numbers[1:], strict=True):
        better = (part > y) | (part != part)
        # As numbers rise, the maximum is the number of the last part that was better.
        np.maximum(winner, better * number, out=winner)
        np.maximum(y, part, out=y)
    return y, winner


@in_float32
def max_pool_grad(
    g: np.ndarray,
    kept: Any,
    size: Sizes,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
) -> np.ndarray:
    """Gradient of max_pool with respect to its input, of `size`: g goes to the element that won."""
    gl, wl = channels_last(g), channels_last(kept)
    out = gl.shape[1:-1]
    gx = border(np.zeros((len(g), *size, g.shape[1]), g.dtype, like=g), out, kernel, stride, padding, dilation, 0.0)
    for k, part in enumerate(windows(gx, out, kernel, stride, dilation)):
        part += gl * (wl == k)
    return channels_first(gx[inside(size, padding)])


def max_places(x: np.ndarray, tables: list[np.ndarray]) -> np.ndarray:
    """Where in its image the maximum of each window is. x: (N, C, *S) -> (N, C, *O), numbers below prod(S)

    tables: for each dimension the rows of the image that lie in each window, (O, K) for all images or (N, C, O, K);
    they never fall along K, and may repeat. Of equal elements the first wins, but the last NaN, as in `max_pool`.
    """
    y, where, below = x, np.zeros(1, np.int64), 1
    for d in reversed(range(2, x.ndim)):
        table = tables[d - 2]
        images = table.shape[:-2] or (1, 1)
        shape = (*images, *(table.shape[-2] if i == d else 1 for i in range(2, x.ndim)))
        parts, numbers = [], []
        for k in range(table.shape[-1]):
            rows = table[..., k].reshape(shape)
            parts.append(_taken(y, rows, d))
            numbers.append(rows * below + (_taken(where, rows, d) if where.ndim > 1 else 0))
        y, where = _best(parts, numbers)
        below *= x.shape[d]
    return where


def _taken(x: np.ndarray, rows: np.ndarray, dim: int) -> np.ndarray:
    """The rows of x along dim; rows has x's dimensions, of 1 where all are alike."""
    return x.take(rows.reshape(-1), dim) if rows.size == rows.shape[dim] else np.take_along_axis(x, rows, dim)


def avg_pool(x: np.ndarray, out: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, count: np.ndarray) -> np.ndarray:
    """Sum over windows / count. x: (N, C, *S), count: out -> (N, C, *out)"""
    once = (1,) * len(out)
    xl = border(channels_last(x), out, kernel, stride, padding, once, 0.0)
    parts = windows(xl, out, kernel, stride, once)
    y = next(parts).copy(order="K")
    for part in parts:
        y += part
    y /= count[..., None].astype(x.dtype)
    return channels_first(y)


def avg_pool_grad(
    g: np.ndarray, size: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, count: np.ndarray
) -> np.ndarray:
    """Gradient of avg_pool with respect to its input, of `size`."""
    share = channels_last(g) / count[..., None].astype(g.dtype)
    out, once = share.shape[1:-1], (1,) * len(size)
    gx = border(np.zeros((len(g), *size, g.shape[1]), g.dtype, like=g), out, kernel, stride, padding, once, 0.0)
    for part in windows(gx, out, kernel, stride, once):
        part += share
    return channels_first(gx[inside(size, padding)])


def _bins(size: int, out: int) -> np.ndarray:
    """(out, size): row i has 1 / length over bin i, which is [floor(i size / out), ceil((i + 1) size / out))."""
    matrix = np.zeros((out, size))
    for i in range(out):
        lo, hi = i * size // out, -(-(i + 1) * size // out)
        matrix[i, lo:hi] = 1 / (hi - lo)
    return matrix


def adaptive_avg_pool(x: np.ndarray, out: Sizes) -> np.ndarray:
    """Mean over out bins that cover the image. x: (N, C, *S) -> (N, C, *out)"""
    return _along_each(x, [_bins(n, o).astype(x.dtype) for n, o in zip(x.shape[2:], out, strict=True)])


def adaptive_avg_pool_grad(g: np.ndarray, size: Sizes) -> np.ndarray:
    """Gradient of adaptive_avg_pool with respect to its input, of `size`."""
    return _along_each(g, [_bins(n, o).astype(g.dtype).T for n, o in zip(size, g.shape[2:], strict=True)])


def _along_each(x: np.ndarray, matrices: list[np.ndarray]) -> np.ndarray:
    """x with each dimension of its images multiplied by its matrix (to, from)."""
    for d, matrix in enumerate(matrices, 2):
        shape = (*x.shape[:d], len(matrix), *x.shape[d + 1 :])
        if d == x.ndim - 1:
            x = x @ matrix.T
        elif d == x.ndim - 2:
            x = matrix @ x
        else:
            x = (matrix @ x.reshape(*x.shape[: d + 1], prod(x.shape[d + 1 :]))).reshape(shape)
    return x
