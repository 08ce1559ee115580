"""Order: sorting, the largest, the median, quantiles, what is unique; counting into bins."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dtrain.autograd import Tensor
from dtrain.backend import Array
from dtrain.ops.dtypes import dimension, in_float32
from dtrain.ops.positions import along, take_flat
from dtrain.ops.rearranging import movedim
from dtrain.ops.shape import reshape, squeeze, unsqueeze

__all__ = [
    "Ordered", "argsort", "kthvalue", "median", "mode", "msort", "nanmedian", "nanquantile", "quantile", "sort", "topk",
]  # fmt: skip


class Ordered(NamedTuple):
    """Values, and where they were along the dimension."""

    values: Any
    indices: Any


def _chosen(input: Any, index: Array, axis: int, keepdim: bool = True) -> Ordered:
    """The elements of input at index along axis, differentiable, and the index."""
    values = take_flat(input, along(index, axis, input.shape) if input.ndim else index)
    if not keepdim and input.ndim:
        return Ordered(squeeze(values, axis), Tensor(index.squeeze(axis)))
    return Ordered(values, Tensor(index))


def _order(x: Array, axis: int, descending: bool) -> Array:
    """The places in ascending (descending) order along axis, equal elements in their own order, NaN as the largest."""
    if not x.ndim:
        return np.zeros((), np.int64)
    if not descending:
        return x.argsort(axis, kind="stable")
    return x.shape[axis] - 1 - np.flip(np.flip(x, axis).argsort(axis, kind="stable"), axis)


def argsort(input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """The places of the elements in ascending or descending order along dim. Equal elements keep their order."""
    return Tensor(_order(input.array, dimension(dim, input.ndim), descending))


def sort(input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Ordered:
    """(values, indices) in ascending or descending order along dim; NaN is the largest. Equal ones stay in order."""
    axis = dimension(dim, input.ndim)
    return _chosen(input, _order(input.array, axis, descending), axis)


def msort(input: Any) -> Any:
    """The values in ascending order along the first dimension."""
    return sort(input, 0).values


def topk(input: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Ordered:
    """(values, indices) of the k largest (smallest) elements along dim, in order. ValueError for too large a k."""
    axis = dimension(dim, input.ndim)
    n = input.shape[axis] if input.ndim else 1
    if not 0 <= k <= n:
        raise ValueError(f"topk: k must lie from 0 to {n}, the size of dim {dim} of shape {input.shape}; got {k}")
    x = input.array
    if not input.ndim:
        return _chosen(input, np.zeros((1,) if k else (0,), np.int64)[:k].reshape(() if k else (0,)), 0)
    if n > 1000 and 8 * k < n and k:
        first = slice(n - k, n) if largest else slice(0, k)
        part = np.argpartition(x, n - k if largest else k - 1, axis)[(slice(None),) * axis + (first,)]
        part.sort(axis)
        index = np.take_along_axis(part, _order(np.take_along_axis(x, part, axis), axis, largest), axis)
    else:
        index = _order(x, axis, largest)[(slice(None),) * axis + (slice(0, k),)]
    return _chosen(input, index, axis)


def kthvalue(input: Any, k: int, dim: int = -1, keepdim: bool = False) -> Ordered:
    """(values, indices) of the k-th smallest element along dim, k from 1."""
    axis = dimension(dim, input.ndim)
    n = input.shape[axis] if input.ndim else 1
    if not 1 <= k <= n:
        raise ValueError(f"kthvalue: k must lie from 1 to {n}, the size of dim {dim} of shape {input.shape}; got {k}")
    order = _order(input.array, axis, False)
    return _chosen(input, order[(slice(None),) * axis + (slice(k - 1, k),)] if input.ndim else order, axis, keepdim)


def _median(input: Any, dim: int | None, keepdim: bool, skip: bool) -> Any:
    if dim is None:
        if not input.array.size:
            return Tensor(np.asarray(np.nan if input.is_floating_point() else np.iinfo(input.dtype).min, input.dtype))
        return _median(reshape(input, -1), 0, False, skip).values
    axis = dimension(dim, input.ndim)
    if not input.ndim:
        return _chosen(input, np.zeros((), np.int64), axis)
    x = input.array
    if not x.shape[axis]:
        raise IndexError(f"median: dim {dim} of shape {input.shape} has no elements")
    missing = np.isnan(x).sum(axis, keepdims=True) if x.dtype.kind == "f" else np.zeros((1,) * x.ndim, np.int64)
    order = _order(x, axis, False)
    n = x.shape[axis]
    middle = np.maximum(n - missing - 1, 0) // 2 if skip else np.where(missing > 0, n - missing, (n - 1) // 2)
    sized = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    return _chosen(input, np.take_along_axis(order, np.broadcast_to(middle, sized), axis), axis, keepdim)


def median(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The median, the lower one of two, of all elements; with dim, (values, indices) along it. NaN if any is."""
    return _median(input, dim, keepdim, False)


def nanmedian(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """`median` of what is not NaN."""
    return _median(input, dim, keepdim, True)


def mode(input: Any, dim: int = -1, keepdim: bool = False) -> Ordered:
    """(values, indices) of the most frequent element along dim, the smallest of several, at its last place."""
    axis = dimension(dim, input.ndim)
    if not input.ndim:
        return _chosen(input, np.zeros((), np.int64), axis)
    x = np.moveaxis(input.array, axis, -1)
    n = x.shape[-1]
    if not n:
        raise IndexError(f"mode: dim {dim} of shape {input.shape} has no elements")
    order = x.argsort(-1, kind="stable")
    values = np.take_along_axis(x, order, -1)
    new = np.concatenate([np.ones((*x.shape[:-1], 1), bool), values[..., 1:] != values[..., :-1]], -1)
    start = np.maximum.accumulate(np.where(new, np.arange(n), 0), -1)
    # The run that is the longest, the first of several: where the place in a run is the highest.
    last = (np.arange(n) - start).argmax(-1)
    index = np.take_along_axis(order, last[..., None], -1)
    return _chosen(input, np.moveaxis(index, -1, axis), axis, keepdim)


# -- quantiles ---------------------------------------------------------------------------------------


def _quantile(input: Any, q: Any, dim: int | None, keepdim: bool, interpolation: str, skip: bool) -> Any:
    name = "nanquantile" if skip else "quantile"
    if not isinstance(q, Tensor):
        q = Tensor(np.asarray(q, input.dtype))
    if not input.is_floating_point() or q.dtype != input.dtype:
        raise TypeError(f"{name} needs two floating-point tensors of one dtype, got {input.dtype} and {q.dtype}")
    if q.ndim > 1 or not np.all((q.array >= 0) & (q.array <= 1)):
        raise ValueError(f"{name}: q must be a number or a vector of numbers from 0 to 1, got {q}")
    if interpolation not in ("linear", "lower", "higher", "midpoint", "nearest"):
        raise ValueError(
            f"{name}: interpolation {interpolation!r} is unknown; use linear, lower, higher, midpoint, nearest"
        )
    if not input.array.size:
        raise ValueError(f"{name} needs elements, got shape {input.shape}")
    shape = input.shape
    axis = None if dim is None else dimension(dim, input.ndim)
    line = reshape(input, -1) if axis is None or not shape else movedim(input, axis, -1)
    ordered = sort(line, -1).values
    x = ordered.array
    n = x.shape[-1]
    missing = np.isnan(x).sum(-1, keepdims=True) if skip else np.where(np.isnan(x[..., -1:]), n, 0)
    levels = reshape(q, -1)
    # Where all are NaN the last one is taken, a NaN.
    steps = np.where(missing == n, n - 1, np.maximum(n - missing - 1, 0) if skip else n - 1)
    ranks = levels * Tensor(steps.astype(input.dtype))
    rank = np.where(missing == n, n - 1, ranks.array)
    low = np.floor(rank) if interpolation != "nearest" else np.rint(rank)
    if interpolation == "higher":
        low = np.ceil(rank)
    at = lambda r: take_flat(ordered, along(r.astype(np.int64), x.ndim - 1, x.shape))  # noqa: E731
    value = at(low)
    if interpolation in ("linear", "midpoint"):
        weight = ranks - Tensor(np.where(missing == n, ranks.array, low)) if interpolation == "linear" else 0.5
        above = at(np.ceil(rank))
        value = value + (above - value) * weight
    value = movedim(value, -1, 0)
    if keepdim:
        if axis is None:
            value = reshape(value, -1, *(1 for _ in shape))
        elif shape:
            value = unsqueeze(value, axis + 1)
    return value if q.ndim else squeeze(value, 0)


@in_float32
def quantile(
    input: Any, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Any:
    """The q-quantiles over dim (all elements, without it): the ranks q (n - 1) among the sorted elements.

    q: a number or a vector, whose results come first. interpolation between two ranks: linear, lower, higher,
    midpoint, nearest. NaN where there is one. Raises TypeError for integers, ValueError for q outside of [0, 1].
    """
    return _quantile(input, q, dim, keepdim, interpolation, False)


@in_float32
def nanquantile(
    input: Any, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Any:
    """`quantile` of what is not NaN."""
    return _quantile(input, q, dim, keepdim, interpolation, True)
