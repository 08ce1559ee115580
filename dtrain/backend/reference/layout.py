"""How arrays lie in memory inside the kernels, and sums over many rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["channels_last", "every", "sum_rows", "windows"]


Pair = tuple[int, int]


def channels_last(x: np.ndarray) -> np.ndarray:
    """(N, C, H, W) -> contiguous (N, H, W, C); no copy where the memory is so already."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def sum_rows(x: np.ndarray) -> np.ndarray:
    """(R, C) -> (C,)"""
    return np.ones(len(x), x.dtype) @ x


def every(start: int, n: int, stride: int) -> slice:
    """n places from `start` on, each `stride` after the last."""
    return slice(start, start + stride * n, stride)


def windows(x: np.ndarray, out: Pair, kernel: Pair, stride: Pair, dilation: Pair) -> Iterator[np.ndarray]:
    """For each element of the window, row by row, the view (N, OH, OW, C) of what falls on it."""
    for k in range(kernel[0]):
        for m in range(kernel[1]):
            yield x[:, every(k * dilation[0], out[0], stride[0]), every(m * dilation[1], out[1], stride[1])]
