"""Unique elements, histograms, places in sorted sequences. Nothing here has a gradient."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from dtrain.autograd import Tensor
from dtrain.ops.dtypes import dimension

__all__ = [
    "Histogram", "HistogramDD", "bincount", "bucketize", "histc", "histogram", "histogramdd", "one_hot",
    "searchsorted", "unique", "unique_consecutive",
]  # fmt: skip


def _results(first: Any, inverse: Any, counts: Any, return_inverse: bool, return_counts: bool) -> Any:
    found = [Tensor(first)]
    found += [Tensor(np.asarray(inverse, np.int64))] if return_inverse else []
    found += [Tensor(np.asarray(counts, np.int64))] if return_counts else []
    return tuple(found) if len(found) > 1 else found[0]


def unique(
    input: Any, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """The different elements (slices along dim), sorted; then where each element is among them, and their counts.

    A tuple if more than the elements are asked for.
    """
    axis = None if dim is None else dimension(dim, input.ndim)
    x = input.array
    if axis is not None and not x.shape[axis]:
        return _results(x, np.zeros(0), np.zeros(0), return_inverse, return_counts)
    values, inverse, counts = np.unique(x, return_inverse=True, return_counts=True, axis=axis, equal_nan=False)
    return _results(values, inverse.reshape(x.shape if axis is None else -1), counts, return_inverse, return_counts)


def unique_consecutive(
    input: Any, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """The elements (slices along dim) without those that equal the one before; see `unique`."""
    x = input.array.reshape(-1) if dim is None else np.moveaxis(input.array, dimension(dim, input.ndim), 0)
    differs = (x[1:] != x[:-1]).any(tuple(range(1, x.ndim)))
    new = np.concatenate([np.ones(min(len(x), 1), bool), differs])
    starts = np.flatnonzero(new)
    inverse = np.cumsum(new) - 1
    counts = np.diff(np.append(starts, len(x)))
    if dim is None:
        return _results(x[starts], inverse.reshape(input.shape), counts, return_inverse, return_counts)
    values = np.moveaxis(x[starts], 0, dimension(dim, input.ndim))
    return _results(values, inverse, counts, return_inverse, return_counts)


def one_hot(tensor: Any, num_classes: int = -1) -> Any:
    """1 at the class and 0 elsewhere, int64: (...) -> (..., classes); by default as many as the largest class asks for.

    Raises TypeError unless tensor holds integers, ValueError for a class that is negative or too large.
    """
    x = tensor.array
    if x.dtype.kind not in "iu":
        raise TypeError(f"one_hot needs integers, got {x.dtype}; convert with .long()")
    if not x.size and num_classes <= 0:
        raise ValueError(f"one_hot cannot tell the number of classes from shape {x.shape}; pass num_classes")
    classes = int(x.max()) + 1 if num_classes == -1 else num_classes
    if classes < 1 or x.size and (x.min() < 0 or x.max() >= classes):
        raise ValueError(f"one_hot: classes must lie from 0 to {classes - 1}, got {x.min()} to {x.max()}")
    return Tensor((x[..., None] == np.arange(classes)).astype(np.int64))


# -- bins --------------------------------------------------------------------------------------------


def bincount(input: Any, weights: Any = None, minlength: int = 0) -> Any:
    """How often each number from 0 is there, or the sum of its weights. input: a vector of integers from 0."""
    if input.ndim != 1 or input.dtype.kind not in "iub" or input.array.size and input.array.min() < 0:
        raise ValueError(f"bincount needs a vector of integers from 0, got shape {input.shape} of {input.dtype}")
    if weights is None:
        return Tensor(np.bincount(input.array, minlength=minlength).astype(np.int64))
    if weights.shape != input.shape:
        raise ValueError(f"bincount: weights of shape {weights.shape} do not fit input of shape {input.shape}")
    dtype = weights.dtype if weights.dtype == np.float32 else np.float64
    return Tensor(np.bincount(input.array, weights.array, minlength).astype(dtype))


def histc(input: Any, bins: int = 100, min: float = 0, max: float = 0) -> Any:
    """How many elements lie in each of `bins` bins of equal width from min to max (both 0: of the elements)."""
    x = input.array.reshape(-1)
    if bins < 1 or max < min:
        raise ValueError(f"histc needs at least one bin and min <= max, got {bins} bins from {min} to {max}")
    if min == max and x.size:
        min, max = x.min().item(), x.max().item()
    if min == max:
        min, max = min - 1, max + 1
    if not np.all(np.isfinite([min, max])):
        raise ValueError(f"histc needs a finite range, got {min} to {max}")
    inside = x[(x >= min) & (x <= max)]
    where = ((inside - min) / (max - min) * bins).astype(np.int64)
    return Tensor(np.bincount(np.minimum(where, bins - 1), minlength=bins).astype(input.dtype))


class Histogram(NamedTuple):
    """Counts, and the edges of the bins."""

    hist: Any
    bin_edges: Any


def histogram(
    input: Any, bins: Any, *, range: tuple[float, float] | None = None, weight: Any = None, density: bool = False
) -> Histogram:
    """(counts, edges) of bins: a number of equal ones over `range`, or a tensor of edges; weighted, or as a density."""
    x = input.array.reshape(-1)
    weights = None if weight is None else weight.array.reshape(-1)
    edges = bins.array if isinstance(bins, Tensor) else bins
    if not isinstance(bins, Tensor):
        edges = np.histogram_bin_edges(x, bins, range).astype(input.dtype)
    counts, _ = np.histogram(x, edges, weights=weights, density=density)
    return Histogram(Tensor(counts.astype(input.dtype)), Tensor(np.asarray(edges, input.dtype)))


class HistogramDD(NamedTuple):
    """Counts, and the edges of the bins of each dimension."""

    hist: Any
    bin_edges: Any


def histogramdd(input: Any, bins: Any, range: Any = None, weight: Any = None, density: bool = False) -> HistogramDD:
    """(counts, edges) of points in D dimensions.  input: (..., D) -> counts (bins of each dimension)

    bins: a number for all dimensions, one for each, or a tensor of edges for each. range: 2 D numbers, the lowest and
    highest edge of each dimension.
    """
    d = input.shape[-1] if input.ndim else 0
    if not d:
        raise ValueError(f"histogramdd needs points of at least one dimension, got shape {input.shape}")
    given = [bins] * d if isinstance(bins, int) else list(bins)
    if len(given) != d or range is not None and len(range) != 2 * d:
        raise ValueError(f"histogramdd: {len(given)} bins and range {range} do not fit points of {d} dimensions")
    points = input.array.reshape(-1, d)
    limits = [None] * d if range is None else [tuple(range[2 * i : 2 * i + 2]) for i in np.arange(d)]
    edges = [
        b.array if isinstance(b, Tensor) else np.histogram_bin_edges(x, b, limit).astype(input.dtype)
        for x, b, limit in zip(points.T, given, limits, strict=True)
    ]
    inside = np.all([(x >= e[0]) & (x <= e[-1]) for x, e in zip(points.T, edges, strict=True)], 0)
    sizes = [len(e) - 1 for e in edges]
    places = [
        np.minimum(_search(e, x, "right") - 1, n - 1)  # the last edge belongs to the last bin
        for x, e, n in zip(points[inside].T, edges, sizes, strict=True)
    ]
    weights = None if weight is None else weight.array.reshape(-1)[inside]
    cells = np.ravel_multi_index(places, sizes)
    counts = np.bincount(cells, weights, int(np.prod(sizes))).reshape(sizes).astype(input.dtype)
    if density:
        with np.errstate(all="ignore"):
            counts = counts / counts.sum()
        for i, e in enumerate(edges):
            counts = counts / np.diff(e).reshape((-1,) + (1,) * (d - 1 - i))
    return HistogramDD(Tensor(counts), tuple(Tensor(e) for e in edges))


# -- sorted sequences --------------------------------------------------------------------------------


def searchsorted(
    sorted_sequence: Any, values: Any, *, out_int32: bool = False, right: bool = False, side: str | None = None,
    sorter: Any = None,
) -> Any:  # fmt: skip
    """Where values belong in a sorted sequence: before equal elements, or behind with right=True (side="right").

    sorted_sequence: (n,), or (..., n) with one sequence for each row of values. sorter: the places of the elements in
    order, where the sequence is not sorted.
    """
    if side not in (None, "left", "right") or side == "left" and right:
        raise ValueError(f"searchsorted: side={side!r} does not fit right={right}; use side='left' or 'right' alone")
    where = "right" if right or side == "right" else "left"
    sequence = sorted_sequence.array
    if sorter is not None:
        if sorter.shape != sorted_sequence.shape:
            raise ValueError(f"searchsorted: sorter has shape {sorter.shape}, the sequence {sorted_sequence.shape}")
        if sorter.dtype != np.int64:
            raise TypeError(f"searchsorted: sorter must be int64, got {sorter.dtype}")
        if sorter.array.size and not 0 <= sorter.array.min() <= sorter.array.max() < sequence.shape[-1]:
            raise IndexError(f"searchsorted: sorter has places outside of the sequence's {sequence.shape[-1]}")
        sequence = np.take_along_axis(sequence, sorter.array, -1)
    v = np.asarray(values.array if isinstance(values, Tensor) else values)
    dtype = np.int32 if out_int32 else np.int64
    if not sequence.ndim:
        raise ValueError("searchsorted needs a sequence of at least one dimension, got one of none")
    if isinstance(values, Tensor) and values.dtype != sorted_sequence.dtype:
        raise TypeError(f"searchsorted needs one dtype, got {sorted_sequence.dtype} and {values.dtype}")
    if sequence.ndim == 1:
        return Tensor(np.asarray(_search(sequence, v, where), dtype))
    if v.shape[:-1] != sequence.shape[:-1] or not v.ndim:
        raise ValueError(
            f"searchsorted: values {v.shape} and sequence {sequence.shape} must agree but for the last dim"
        )
    rows = sequence.reshape(math.prod(sequence.shape[:-1]), sequence.shape[-1])
    found = [_search(row, some, where) for row, some in zip(rows, v.reshape(len(rows), v.shape[-1]), strict=True)]
    return Tensor(np.asarray(found, dtype).reshape(v.shape))


def _search(row: np.ndarray, values: np.ndarray, side: Any) -> np.ndarray:
    return np.searchsorted(row, values, side)


def bucketize(input: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Any:
    """The number of the bucket of each element: boundaries[i - 1] < x <= boundaries[i], or <= x < with right."""
    if boundaries.ndim != 1:
        given = getattr(input, "shape", ())
        raise ValueError(f"bucketize needs a vector of boundaries, got shape {boundaries.shape} for input {given}")
    x = input.array if isinstance(input, Tensor) else np.asarray(input, boundaries.dtype)
    found = _search(boundaries.array, x, "right" if right else "left")
    return Tensor(np.asarray(found, np.int32 if out_int32 else np.int64))
