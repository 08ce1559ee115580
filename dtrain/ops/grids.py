"""Images read at any points: grid_sample, and the grids of affine maps.

A point's value is a weighted sum of pixels around it: `_pixels` takes them, the weights are arithmetic of the
point's coordinates. Both are ops, so the gradients of images and grids, and theirs, need nothing of their own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, op
from dtrain.backend import xp_of
from dtrain.backend.halves import finfo
from dtrain.ops.dtypes import in_float32, only_floats, plain, same_dtype
from dtrain.ops.linear import matmul
from dtrain.ops.positions import take_flat
from dtrain.ops.resampling import cubic
from dtrain.ops.shape import reshape, transpose, unbind, unsqueeze

__all__ = ["affine_grid", "bounded", "grid_sample", "steps"]

_MODES = ("bilinear", "nearest", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")


def _bounded(x: Any, n: int, padding_mode: str, align_corners: bool) -> tuple[Any, Any]:
    """Coordinates x led into an image of n pixels, and the derivative of that, 1, 0 or -1."""
    xp = xp_of(x)
    low, high = (0.0, n - 1.0) if align_corners else (-0.5, n - 0.5)
    missing = xp.isnan(x)  # as if the grid were -1
    far = min(1e9, float(finfo(x.dtype).max) / 2)  # infinity has no remainder
    y = xp.where(missing, low, xp.clip(x, -far, far)).astype(x.dtype)
    slope = xp.where(missing, 0, 1)
    if padding_mode == "reflection":
        span = high - low
        if span <= 0:
            return xp.zeros_like(y), xp.zeros_like(y)
        distance = abs(y - low)
        flips = xp.floor(distance / span)
        rest = xp.fmod(distance, span)
        slope = slope * xp.where(y < low, -1, 1) * xp.where(flips % 2 == 0, 1, -1)
        y = xp.where(flips % 2 == 0, rest + low, span - rest + low).astype(x.dtype)
    if padding_mode != "zeros":
        slope = xp.where((y > 0) & (y < n - 1), slope, 0)
        y = xp.clip(y, 0, n - 1)
    else:  # Far outside all is zero; near enough for whole numbers.
        slope = xp.where((y > -4) & (y < n + 3), slope, 0)
        y = xp.clip(y, -4, n + 3)
    return y.astype(x.dtype, copy=False), slope.astype(x.dtype)


@op
def bounded(x: Any, n: int, padding_mode: str, align_corners: bool) -> Any:
    """Coordinates led into an image of n pixels: clipped ("border"), reflected, or as they are ("zeros")."""
    y, slope = _bounded(plain(x), n, padding_mode, align_corners)
    return y, lambda g: g * slope


@op
def steps(x: Any) -> Any:
    """Zeros in x's shape: what whole numbers near x change with it, almost everywhere."""
    return xp_of(plain(x)).zeros_like(plain(x)), lambda g: xp_of(g).zeros_like(g)


def _pixels(image: Any, places: Sequence[Any]) -> tuple[Any, Any]:
    """The pixels (N, C, P) of image (N, C, *S) at whole numbers, one (N, P) a dimension; and where they exist."""
    n, c, *size = image.shape
    inside: Any = True
    position: Any = 0
    for place, extent in zip(places, size, strict=True):
        valid = (place >= 0) & (place < extent)
        position = position * extent + np.where(valid, place, 0).astype(np.int64)
        inside = inside & valid
    planes = np.arange(n * c).reshape(n, c, 1) * math.prod(size)
    return take_flat(image, planes + position[:, None]), inside


def _spread(image: Any, axes: Sequence[Sequence[tuple[Any, Any]]]) -> Any:
    """The sum over all combinations of one (whole numbers, weights) of each dimension: pixels times weights."""
    total: Any = None
    for corner in itertools.product(*axes):
        values, inside = _pixels(image, [place for place, _ in corner])
        weight: Any = None
        for _, w in corner:
            weight = w if weight is None else weight * w
        if not inside.all():
            weight = weight * Tensor(inside.astype(image.dtype))
        term = values * unsqueeze(weight, 1)
        total = term if total is None else total + term
    return total


@in_float32
def grid_sample(
    input: Any,
    grid: Any,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Any:
    """input (N, C, *S) at the points grid (N, *O, d) of its d = 2 or 3 dimensions -> (N, C, *O).

    A point's coordinates come last dimension first, -1 and 1 are the image's edges, or with align_corners the
    centres of its corners. mode: "bilinear" (of 2^d pixels), "nearest" (halves to even), "bicubic" (of 16; d = 2).
    padding_mode: beyond the image are "zeros", its "border", or its "reflection".
    Raises ValueError for other modes and shapes that do not belong together, TypeError for two dtypes.
    """
    d = input.ndim - 2
    if mode not in _MODES or padding_mode not in _PADDINGS:
        raise ValueError(
            f"grid_sample: mode must be one of {_MODES}, padding_mode one of {_PADDINGS}; "
            f"got {mode!r} and {padding_mode!r}"
        )
    both = f"got an input of shape {input.shape} and a grid of shape {grid.shape}"
    if d not in (2, 3) or grid.ndim != d + 2:
        raise ValueError(f"grid_sample needs an input and a grid of 4 or of 5 dimensions; {both}")
    if grid.shape[0] != input.shape[0] or grid.shape[-1] != d:
        raise ValueError(f"grid_sample needs a grid (N, ..., {d}) with the input's N; {both}")
    if mode == "bicubic" and d != 2:
        raise ValueError(f"grid_sample: 'bicubic' needs an input of 4 dimensions; {both}")
    if 0 in input.shape[2:]:
        raise ValueError(f"grid_sample needs images with pixels; {both}")
    only_floats("grid_sample", input)
    same_dtype("grid_sample", input, grid)
    corners, size, out = bool(align_corners), input.shape[2:], grid.shape[1:-1]
    points = unbind(reshape(grid, grid.shape[0], math.prod(out), d), -1)[::-1]
    places = [((p + 1) * (n - 1) if corners else (p + 1) * n - 1) / 2 for p, n in zip(points, size, strict=True)]
    if mode == "bicubic":
        y = _spread(input, [_cubic(p, n, padding_mode, corners) for p, n in zip(places, size, strict=True)])
    else:
        places = [bounded(p, n, padding_mode, corners) for p, n in zip(places, size, strict=True)]
        if mode == "nearest":
            # A gradient of zeros, not none, for the grid.
            y = _spread(input, [[(np.rint(p.array), steps(p) + 1)] for p in places])
        else:
            y = _spread(input, [_linear(p) for p in places])
    return reshape(y, *input.shape[:2], *out)


def _linear(place: Any) -> list[tuple[Any, Any]]:
    """The two whole numbers around, with their weights."""
    first = np.floor(place.array)
    t = place - Tensor(first)
    return [(first, 1 - t), (first + 1, t)]


def _cubic(place: Any, n: int, padding_mode: str, align_corners: bool) -> list[tuple[Any, Any]]:
    """The four whole numbers around, each led into the image by itself, with their weights."""
    place = bounded(place, n, "zeros", align_corners) if padding_mode == "zeros" else place
    first = np.floor(place.array)
    weights = cubic(place - Tensor(first))
    return [(_bounded(first + i - 1, n, padding_mode, align_corners)[0], w) for i, w in enumerate(weights)]


def affine_grid(theta: Any, size: Sequence[int], align_corners: bool | None = None) -> Any:
    """The grid for `grid_sample` of an affine map. theta (N, d, d + 1), size (N, C, *O) -> (N, *O, d), d = 2 or 3.

    A point of the output, coordinates last dimension first, and 1 behind them, is multiplied by theta.
    Raises ValueError for shapes that do not belong together and sizes below 1, TypeError for whole numbers.
    """
    n, _, *out = sizes = tuple(int(s) for s in size) if len(size) > 1 else (0, 0)
    d = len(out)
    if d not in (2, 3) or theta.shape != (n, d, d + 1) or min(sizes) < 1:
        raise ValueError(
            f"affine_grid needs theta (N, 2, 3) and 4 positive sizes (N, C, H, W), or (N, 3, 4) and 5; "
            f"got theta of shape {theta.shape} and size {tuple(size)}"
        )
    only_floats("affine_grid", theta)
    lines = []
    for o in out:
        line = np.linspace(-1, 1, o) if o > 1 else np.zeros(1)
        lines.append(line if align_corners else line * (o - 1) / o)
    points = np.stack([*np.meshgrid(*lines, indexing="ij")[::-1], np.ones(out)], -1).reshape(-1, d + 1)
    grid = matmul(Tensor(points.astype(theta.dtype)), transpose(theta, 1, 2))
    return reshape(grid, n, *out, d)
