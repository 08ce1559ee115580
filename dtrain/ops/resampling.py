"""Images at another resolution: every mode is a weighted sum of a few elements, one dimension after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.autograd import op
from dtrain.backend import xp_of
from dtrain.ops.dtypes import only_floats, plain
from dtrain.ops.positions import rows

__all__ = ["Taps", "cubic", "interpolate", "upsample", "upsample_bilinear", "upsample_nearest", "weighted"]

_DIMENSIONS = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}


class Taps:
    """A sparse matrix (out, in): row i has the weights weight[i, t] in the columns index[i, t], both (out, taps)."""

    def __init__(self, index: np.ndarray, weight: np.ndarray, size: int) -> None:
        self.index, self.weight, self.size = index, weight, size

    @property
    def transposed(self) -> Taps:
        """The transposed matrix, (in, out); rows shorter than the longest end in weights of 0."""
        row, tap = np.nonzero(self.weight)
        column = self.index[row, tap]
        order = column.argsort(kind="stable")  # within a column by row: the order in which gradients are added
        counts = np.bincount(column, minlength=self.size)
        place = np.arange(len(column)) - np.repeat(counts.cumsum() - counts, counts)
        shape = (self.size, max(counts.max(initial=0), 1))
        index, weight = np.zeros(shape, np.int64), np.zeros(shape)
        index[column[order], place] = row[order]
        weight[column[order], place] = self.weight[row, tap][order]
        return Taps(index, weight, len(self.index))


@op
def weighted(x: Any, taps: Taps, dim: int) -> Any:
    """The product of `taps` and x along dim: y[i] = sum over t of weight[i, t] x[index[i, t]], in the order of t."""
    y: Any = None
    array = plain(x)
    xp = xp_of(array)
    for index, weight in zip(taps.index.T, taps.weight.T, strict=True):
        term = array.take(xp.asarray(index), dim)
        if (weight != 1).any():
            term *= xp.asarray(weight.astype(array.dtype)).reshape(-1, *(1,) * (array.ndim - 1 - dim))
        if y is None:
            y = term
        else:
            y += term
    return y, lambda g: weighted.raw(g, taps.transposed, dim)


# -- weights: of what along one dimension ------------------------------------------------------------


def cubic(t: Any, a: float = -0.75) -> tuple[Any, Any, Any, Any]:
    """Weights of the four elements around a point at distance t behind the second. Source: Keys 1981."""

    def near(d: Any) -> Any:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Any) -> Any:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return far(t + 1), near(t), near(1 - t), far(2 - t)


def _step(n: int, out: int, scale: float | None, align_corners: bool) -> float:
    """The distance of two output pixels, in input pixels."""
    if align_corners:
        return (n - 1) / (out - 1) if out > 1 else 0.0
    return 1 / scale if scale else n / out


def _nearest(n: int, out: int, scale: float | None, exact: bool, dtype: np.dtype) -> np.ndarray:
    # In the precision of the input, as in PyTorch: rounding decides which one is the nearest.
    step = np.asarray(1 / scale, dtype) if scale else np.asarray(n, dtype) / np.asarray(out, dtype)
    places = (np.arange(out, dtype=dtype) + np.asarray(exact * 0.5, dtype)) * step
    return np.minimum(np.floor(places), n - 1).astype(np.int64)


def _between(mode: str, n: int, out: int, scale: float | None, align_corners: bool) -> Taps:
    """Linear or cubic weights of the elements around each output pixel's centre."""
    step, i = _step(n, out, scale, align_corners), np.arange(out)
    places = step * i if align_corners else step * (i + 0.5) - 0.5
    if mode != "bicubic":
        places = places.clip(0)
    first = np.minimum(np.floor(places), n - 1).astype(np.int64)
    t = (places - first).clip(0, 1)
    weights = cubic(t) if mode == "bicubic" else (1 - t, t)
    before = 1 if mode == "bicubic" else 0
    index = (first[:, None] + np.arange(-before, len(weights) - before)).clip(0, n - 1)
    return Taps(index, np.stack(weights, 1), n)


def _antialiased(mode: str, n: int, out: int, scale: float | None, align_corners: bool) -> Taps:
    """Weights of a triangle or a cubic spline as wide as an output pixel: all elements under it count."""
    step = _step(n, out, scale, align_corners)
    width = max(step, 1.0)
    support = (2 if mode == "bicubic" else 1) * width
    centre = step * (np.arange(out) + 0.5)
    low = np.maximum(np.trunc(centre - support + 0.5), 0).astype(np.int64)
    high = np.minimum(np.trunc(centre + support + 0.5), n).astype(np.int64)
    index = low[:, None] + np.arange(max((high - low).max(initial=0), 1))
    d = abs((index - centre[:, None] + 0.5) / width)
    if mode == "bicubic":
        far, near, _, _ = cubic(np.where(d < 1, d, d - 1), -0.5)
        weight = np.where(d < 1, near, np.where(d < 2, far, 0))
    else:
        weight = (1 - d).clip(0)
    weight = np.where(index < high[:, None], weight, 0)
    return Taps(index.clip(0, n - 1), weight / weight.sum(1, keepdims=True), n)


def _means(n: int, out: int) -> Taps:
    """Means over the bins of adaptive average pooling."""
    i = np.arange(out)
    low, high = i * n // out, -(-(i + 1) * n // out)
    index = low[:, None] + np.arange((high - low).max(initial=1))
    weight = (index < high[:, None]) / (high - low)[:, None]
    return Taps(index.clip(0, n - 1), weight, n)


# -- interpolate -------------------------------------------------------------------------------------


def _per_dimension(name: str, value: Any, dims: int, shape: tuple[int, ...]) -> list[Any]:
    if not isinstance(value, (Sequence, np.ndarray)):
        return [value] * dims
    if len(value) != dims:
        raise ValueError(
            f"interpolate: {name} {tuple(value)} has {len(value)} numbers, an input of {shape} takes {dims}"
        )
    return list(value)


def interpolate(
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    """(N, C, *S) with 1 to 3 sizes S -> (N, C, *size): resampled to `size`, or to floor(S * scale_factor).

    mode: "nearest" (element floor(i S / size)), "nearest-exact" (floor((i + 0.5) S / size)), "linear" (3-d inputs),
    "bilinear" and "bicubic" (4-d; Keys' spline with a = -0.75), "trilinear" (5-d), "area" (means over bins).
    align_corners: the corners' centres, not their outer edges, coincide. recompute_scale_factor: S / size, not
    the given factor, tells distances. antialias: "bilinear" and "bicubic" take means where they make an image smaller.
    Raises ValueError for size and scale_factor together or none, and for options that a mode does not have.
    """
    shape, dims = input.shape, input.ndim - 2
    if not 1 <= dims <= 3:
        raise ValueError(f"interpolate needs an input of 3 to 5 dimensions, (N, C and 1 to 3 more), got shape {shape}")
    if mode not in ("nearest", "nearest-exact", "area", *_DIMENSIONS):
        raise ValueError(f"interpolate: unknown mode {mode!r}")
    if _DIMENSIONS.get(mode, dims) != dims:
        raise ValueError(f"interpolate: mode {mode!r} needs {_DIMENSIONS[mode] + 2} dimensions, got shape {shape}")
    if mode not in _DIMENSIONS and align_corners is not None:
        raise ValueError(f"interpolate: mode {mode!r} has no align_corners, got {align_corners}")
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ValueError(f"interpolate: only 'bilinear' and 'bicubic' have antialias, not {mode!r}")
    if (size is None) == (scale_factor is None):
        raise ValueError(f"interpolate needs either size or scale_factor, got {size} and {scale_factor}")
    if size is not None and recompute_scale_factor:
        raise ValueError(f"interpolate: recompute_scale_factor needs a scale_factor, got size {size}")
    if size is not None:
        out = [int(n) for n in _per_dimension("size", size, dims, shape)]
        scales: list[float | None] = [None] * dims
    else:
        scales = [float(s) for s in _per_dimension("scale_factor", scale_factor, dims, shape)]
        out = [math.floor(n * s) for n, s in zip(shape[2:], scales, strict=True)]
        if recompute_scale_factor:
            scales = [None] * dims
    if 0 in shape[1:] or min(out) < 1:
        raise ValueError(f"interpolate needs images and outputs with elements, got shape {shape} to {tuple(out)}")
    precision = np.dtype(np.float64) if input.dtype == np.float64 else np.dtype(np.float32)
    if not mode.startswith("nearest"):
        only_floats(f"interpolate with mode {mode!r}", input)
    for dim in reversed(range(dims)):
        n, o, s = shape[dim + 2], out[dim], scales[dim]
        if mode.startswith("nearest"):
            index = _nearest(n, o, s, mode == "nearest-exact", precision)
            if input.is_floating_point():  # of which a gradient may be wanted
                input = weighted(input, Taps(index[:, None], np.ones((o, 1)), n), dim + 2)
            else:
                input = rows(input, index, dim + 2)
        elif mode == "area":
            input = weighted(input, _means(n, o), dim + 2)
        else:
            weights = _antialiased if antialias else _between
            input = weighted(input, weights(mode, n, o, s, bool(align_corners)), dim + 2)
    return input


def upsample(
    input: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None
) -> Any:
    """`interpolate`, under its old name."""
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(input: Any, size: Any = None, scale_factor: Any = None) -> Any:
    """`interpolate` to the nearest elements."""
    return interpolate(input, size, scale_factor, "nearest")


def upsample_bilinear(input: Any, size: Any = None, scale_factor: Any = None) -> Any:
    """`interpolate` of images, bilinear, with align_corners."""
    return interpolate(input, size, scale_factor, "bilinear", align_corners=True)
