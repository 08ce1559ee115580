"""How arrays lie in memory inside the kernels, windows that slide over them, and sums over many rows.

Images have 1, 2 or 3 dimensions behind (N, C). A tuple of `Sizes` has a number for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

__all__ = [
    "border",
    "channel_rows",
    "channels_first",
    "channels_last",
    "contiguous",
    "every",
    "filled",
    "inside",
    "needed",
    "strided",
    "sum_rows",
    "windows",
]


Sizes = tuple[int, ...]


def channels_last(x: np.ndarray) -> np.ndarray:
    """(N, C, *S) -> contiguous (N, *S, C); no copy where the memory is so already."""
    return contiguous(x.transpose(0, *range(2, x.ndim), 1))


def contiguous(x: np.ndarray) -> np.ndarray:
    """x in the memory order of its dimensions; no copy where it is so already."""
    return x if x.flags.c_contiguous else x.copy()


def filled(shape: Sizes, value: float, like: np.ndarray) -> np.ndarray:
    """An array with one value everywhere, of like's kind and dtype."""
    # CuPy does not understand what np.full and np.ones hand on for `like`.
    made = np.empty(shape, like.dtype, like=like)
    made[...] = value
    return made


def channel_rows(x: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """(N, C, ...) -> (R, C), and the way back."""
    if x.ndim == 2:
        return x, lambda rows: rows
    last = contiguous(np.moveaxis(x, 1, -1))
    return last.reshape(-1, x.shape[1]), lambda rows: np.moveaxis(rows.reshape(last.shape), -1, 1)


def channels_first(x: np.ndarray) -> np.ndarray:
    """(N, *S, C) -> (N, C, *S), a view."""
    return x.transpose(0, x.ndim - 1, *range(1, x.ndim - 1))


def strided(x: np.ndarray, shape: Sizes, strides: Sizes) -> np.ndarray:
    """A view of x with other strides, in bytes."""
    if isinstance(x, np.ndarray):
        return np.lib.stride_tricks.as_strided(x, shape, strides)
    import cupy

    return cupy.lib.stride_tricks.as_strided(x, shape, strides)


def sum_rows(x: np.ndarray) -> np.ndarray:
    """(R, C) -> (C,)"""
    return filled((len(x),), 1, x) @ x


def every(start: int, n: int, stride: int) -> slice:
    """n places from `start` on, each `stride` after the last."""
    return slice(start, start + stride * n, stride)


def needed(out: Sizes, kernel: Sizes, stride: Sizes, dilation: Sizes) -> Sizes:
    """The size of an image that `out` windows cover."""
    return tuple((o - 1) * s + d * (k - 1) + 1 for o, k, s, d in zip(out, kernel, stride, dilation, strict=True))


def inside(size: Sizes, padding: Sizes) -> tuple[slice, ...]:
    """Where an image of `size` lies in (N, *S, C) with a border of `padding` before it."""
    return (slice(None), *(slice(p, p + n) for p, n in zip(padding, size, strict=True)))


def border(
    x: np.ndarray, out: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, fill: float
) -> np.ndarray:
    """Channels-last images behind a border of `fill`, which is wide enough behind them for every window, too."""
    size = x.shape[1:-1]
    need = needed(out, kernel, stride, dilation)
    whole = tuple(max(m, n + p) for m, n, p in zip(need, size, padding, strict=True))
    if whole == size:
        return x
    padded = filled((x.shape[0], *whole, x.shape[-1]), fill, x)
    padded[inside(size, padding)] = x
    return padded


def windows(x: np.ndarray, out: Sizes, kernel: Sizes, stride: Sizes, dilation: Sizes) -> Iterator[np.ndarray]:
    """For each element of the window, row by row, the view (N, *out, C) of what falls on it."""
    for place in product(*map(range, kernel)):
        parts = (every(k * d, o, s) for k, d, o, s in zip(place, dilation, out, stride, strict=True))
        yield x[(slice(None), *parts)]
