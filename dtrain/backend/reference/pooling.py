"""Pooling of images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dtrain.backend.reference.layout import Sizes, border, channels_last, every, windows

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_grad",
    "avg_pool2d",
    "avg_pool2d_grad",
    "max_pool2d",
    "max_pool2d_grad",
]


def max_pool2d(
    x: np.ndarray, out: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> tuple[np.ndarray, np.ndarray]:
    """Maximum over windows. x: (N, C, H, W) -> y (N, C, *out), and which element of its window won.

    The first of equal elements wins, but the last NaN, if there is any, as in PyTorch.
    """
    xl = border(channels_last(x), out, kernel, stride, padding, dilation, -math.inf)
    # The maximum of every row of a window, then the maximum of these: runs of memory stay long.
    columns = [every(m * dilation[1], out[1], stride[1]) for m in range(kernel[1])]
    rows = [every(k * dilation[0], out[0], stride[0]) for k in range(kernel[0])]
    number = np.uint8 if kernel[0] * kernel[1] <= 256 else np.uint16
    y, winner = _best([xl[:, :, c] for c in columns], [number(m) for m in range(kernel[1])])
    y, winner = _best([y[:, r] for r in rows], [winner[:, r] + number(k * kernel[1]) for k, r in enumerate(rows)])
    return y.transpose(0, 3, 1, 2), winner.transpose(0, 3, 1, 2)


def _best(parts: list[np.ndarray], numbers: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """The elementwise maximum of the parts, and the number of the part that has it; numbers rise."""
    y = np.array(parts[0])
    winner = np.zeros(y.shape, numbers[0].dtype) + numbers[0]
    for part, number in zip(parts[1:], numbers[1:], strict=True):
        better = (part > y) | (part != part)
        # As numbers rise, the maximum is the number of the last part that was better.
        np.maximum(winner, better * number, out=winner)
        np.maximum(y, part, out=y)
    return y, winner


def max_pool2d_grad(
    g: np.ndarray,
    winner: np.ndarray,
    shape: tuple[int, ...],
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
) -> np.ndarray:
    """Gradient of max_pool2d with respect to its input of `shape`: g goes to the element that won."""
    gl, wl = channels_last(g), channels_last(winner)
    n, c, h, w = shape
    out = gl.shape[1:3]
    gx = border(np.zeros((n, h, w, c), g.dtype), out, kernel, stride, padding, dilation, 0.0)
    for k, part in enumerate(windows(gx, out, kernel, stride, dilation)):
        part += gl * (wl == k)
    return gx[:, padding[0] : padding[0] + h, padding[1] : padding[1] + w].transpose(0, 3, 1, 2)


def avg_pool2d(
    x: np.ndarray, out: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, count: np.ndarray
) -> np.ndarray:
    """Sum over windows / count. x: (N, C, H, W), count: out -> (N, C, *out)"""
    xl = border(channels_last(x), out, kernel, stride, padding, (1, 1), 0.0)
    parts = windows(xl, out, kernel, stride, (1, 1))
    y = np.array(next(parts))
    for part in parts:
        y += part
    y /= count[:, :, None].astype(x.dtype)
    return y.transpose(0, 3, 1, 2)


def avg_pool2d_grad(
    g: np.ndarray, shape: tuple[int, ...], kernel: Sizes, stride: Sizes, padding: Sizes, count: np.ndarray
) -> np.ndarray:
    """Gradient of avg_pool2d with respect to its input of `shape`."""
    share = channels_last(g) / count[:, :, None].astype(g.dtype)
    n, c, h, w = shape
    out = share.shape[1:3]
    gx = border(np.zeros((n, h, w, c), g.dtype), out, kernel, stride, padding, (1, 1), 0.0)
    for part in windows(gx, out, kernel, stride, (1, 1)):
        part += share
    return gx[:, padding[0] : padding[0] + h, padding[1] : padding[1] + w].transpose(0, 3, 1, 2)


def _bins(size: int, out: int) -> np.ndarray:
    """(out, size): row i has 1 / length over bin i, which is [floor(i size / out), ceil((i + 1) size / out))."""
    matrix = np.zeros((out, size))
    for i in range(out):
        lo, hi = i * size // out, -(-(i + 1) * size // out)
        matrix[i, lo:hi] = 1 / (hi - lo)
    return matrix


def adaptive_avg_pool2d(x: np.ndarray, out: Sizes) -> np.ndarray:
    """Mean over out[0] x out[1] bins that cover the image. x: (N, C, H, W) -> (N, C, *out)"""
    rows, columns = (_bins(size, o).astype(x.dtype) for size, o in zip(x.shape[2:], out, strict=True))
    return rows @ x @ columns.T


def adaptive_avg_pool2d_grad(g: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Gradient of adaptive_avg_pool2d with respect to its input of `shape`."""
    rows, columns = (_bins(size, o).astype(g.dtype) for size, o in zip(shape[2:], g.shape[2:], strict=True))
    return rows.T @ g @ columns
