"""Elements written to places given by index or mask; all return a new tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, constant, op
from dtrain.backend import Array
from dtrain.backend.halves import finfo, is_float
from dtrain.ops import arithmetic
from dtrain.ops.dtypes import dimension, plain
from dtrain.ops.indexing import check_fit, raw_key
from dtrain.ops.positions import along, checked_index, of_rows, place, spread, spread_rows, take_flat
from dtrain.ops.shape import broadcast_to

__all__ = [
    "diagonal_scatter", "index_add", "index_copy", "index_fill", "index_put", "index_reduce", "masked_fill",
    "masked_scatter", "put", "scatter", "scatter_add", "scatter_reduce", "select_scatter", "slice_scatter",
]  # fmt: skip


def _same_dtype(name: str, input: Any, source: Any) -> None:
    if isinstance(source, Tensor) and source.dtype != input.dtype:
        raise TypeError(f"{name} needs one dtype, got {input.dtype} and {source.dtype}; convert with .to(dtype)")


def _positions(name: str, input: Any, dim: int, index: Any, source: Any) -> tuple[Array, Any]:
    """Where scatter writes, and what: the part of source that index covers."""
    axis = dimension(dim, input.ndim)
    check_fit(name, input, axis, index)
    where = checked_index(name, index, input.shape[axis] if input.ndim else 1)
    if isinstance(source, Tensor):
        if where.size and (
            max(source.ndim, 1) != max(where.ndim, 1)
            or any(i > n for i, n in zip(where.shape, source.shape, strict=False))
        ):
            raise ValueError(f"{name}: an index of shape {where.shape} is larger than the source's {source.shape}")
        _same_dtype(name, input, source)
        if source.shape != where.shape:
            source = (
                source[tuple(slice(n) for n in where.shape)]
                if source.ndim and where.ndim
                else source.reshape(where.shape if where.size else (-1,))
            )
    return (along(where, axis, input.shape) if input.ndim else where), source


def scatter(
    input: Any, dim: int, index: Any, src: Any = None, *, value: float | None = None, reduce: str | None = None
) -> Any:
    """input with src (or a number, value) at index along dim: out[i, index[i, j]] = src[i, j] for dim 1.

    Of several on one place the last stays. reduce: "add" or "multiply" instead. Raises ValueError for sizes that do not
    fit, TypeError for two dtypes, IndexError for an index out of range.
    """
    source = value if src is None else src
    if source is None:
        raise ValueError("scatter needs src or value")
    where, source = _positions("scatter", input, dim, index, source)
    if reduce is None:
        return place(input, source, where)
    if reduce not in ("add", "multiply"):
        raise ValueError(f"scatter: reduce must be 'add' or 'multiply', got {reduce!r}")
    if not isinstance(source, Tensor):
        source = constant(np.full(where.shape, source, input.dtype))
    return _reduced({"add": "sum", "multiply": "prod"}[reduce], input, source, where, True)


def scatter_add(input: Any, dim: int, index: Any, src: Any) -> Any:
    """input with src added at index along dim; see `scatter`."""
    where, source = _positions("scatter_add", input, dim, index, src)
    return arithmetic.add(input, spread(source, where, input.shape))


def scatter_reduce(input: Any, dim: int, index: Any, src: Any, reduce: str, *, include_self: bool = True) -> Any:
    """input with the sum, prod, mean, amax or amin of what src has for each place; see `scatter`.

    include_self: whether the element of input itself counts; where nothing falls it stays in any case.
    """
    where, source = _positions("scatter_reduce", input, dim, index, src)
    return _reduced(reduce, input, source, where, include_self)


def index_reduce(input: Any, dim: int, index: Any, source: Any, reduce: str, *, include_self: bool = True) -> Any:
    """input whose slices at `index` along dim are reduced with those of source: prod, mean, amax or amin."""
    if reduce not in ("prod", "mean", "amax", "amin"):
        raise ValueError(f"index_reduce: reduce must be 'prod', 'mean', 'amax' or 'amin', got {reduce!r}")
    where, source = _slices("index_reduce", input, dim, index, source)
    return _reduced(reduce, input, source, where, include_self)


# -- reductions --------------------------------------------------------------------------------------


def _reduced(reduce: str, input: Any, source: Any, where: Array, include_self: bool) -> Any:
    if reduce not in ("sum", "prod", "mean", "amax", "amin"):
        raise ValueError(f"reduce must be 'sum', 'prod', 'mean', 'amax' or 'amin', got {reduce!r}")
    if not where.size:
        return input.clone()
    if not include_self:
        input = place(input, _neutral(reduce, input.dtype), where)
    if reduce == "prod":
        return _multiply(input, source, where)
    if reduce in ("amax", "amin"):
        return _extreme(input, source, where, reduce)
    total = arithmetic.add(input, spread(source, where, input.shape))
    if reduce == "sum":
        return total
    found = np.bincount(where.reshape(-1), minlength=input.array.size).reshape(input.shape) + include_self
    counts = Tensor(np.maximum(found, 1).astype(input.dtype))
    return arithmetic.div(total, counts, rounding_mode=None if input.is_floating_point() else "floor")


def _neutral(reduce: str, dtype: np.dtype) -> Any:
    """What changes nothing in a reduction."""
    if reduce in ("sum", "mean"):
        return 0
    if reduce == "prod":
        return 1
    if is_float(dtype):
        return -np.inf if reduce == "amax" else np.inf
    if dtype.kind == "b":
        return reduce == "amin"
    return np.iinfo(dtype).min if reduce == "amax" else np.iinfo(dtype).max


@op
def _extreme(x: Any, source: Any, where: Array, reduce: str) -> Any:
    """The larger (smaller) of x and what source has for each place; equal ones share the gradient."""
    a, b = plain(x), plain(source)
    y = a.reshape(-1).copy()
    (np.maximum if reduce == "amax" else np.minimum).at(y, where.reshape(-1), b.reshape(-1))
    ours, theirs = y.reshape(a.shape) == a, y[where] == b

    def shared(g: Any) -> Any:
        winners = np.bincount(where.reshape(-1), theirs.reshape(-1), a.size).reshape(a.shape) + ours
        return g / np.maximum(winners, 1).astype(a.dtype)

    return y.reshape(a.shape), (lambda g: shared(g) * ours, lambda g: take_flat.raw(shared(g), where) * theirs)


@op
def _multiply(x: Any, source: Any, where: Array) -> Any:
    """x times what source has for each place."""
    a, b = plain(x), plain(source)
    y = a.reshape(-1).copy()
    np.multiply.at(y, where.reshape(-1), b.reshape(-1))
    zeros = np.bincount(where.reshape(-1), (b == 0).reshape(-1), a.size)[where]  # of the place of each factor
    alone = (zeros == 1) & (b == 0)

    def with_ones(v: Any, ones: Array) -> Any:
        """v with ones for some of its elements."""
        return v * ~ones + ones.astype(a.dtype)

    def pullback_x(g: Any) -> Any:
        return g * _multiply.raw(np.ones_like(a), source, where)

    def pullback_source(g: Any) -> Any:
        # The product of the others: all, divided by the factor; without it where it is the only zero of its place.
        whole = take_flat.raw(_multiply.raw(x, with_ones(source, alone), where) * g, where)
        return whole / with_ones(source, b == 0) * (zeros - (b == 0) == 0)

    return y.reshape(a.shape), (pullback_x, pullback_source)


# -- slices at an index ------------------------------------------------------------------------------


def _slices(name: str, input: Any, dim: int, index: Any, source: Any) -> tuple[Array, Any]:
    """The positions of the slices at `index` along dim, and the source in their shape. Raises where it does not fit."""
    axis = dimension(dim, input.ndim)
    _same_dtype(name, input, source)
    if index.ndim > 1:
        raise ValueError(f"{name} needs a vector as index, got shape {index.shape}")
    where = checked_index(name, index, input.shape[axis] if input.ndim else 1).reshape(-1)
    expected = (*input.shape[:axis], len(where), *input.shape[axis + 1 :]) if input.ndim else input.shape
    if source.shape != expected and (source.array.size, source.ndim) != (1, 0):
        raise ValueError(
            f"{name}: {len(where)} slices of input {input.shape} along dim {dim} need a source of shape {expected}, "
            f"got {source.shape}"
        )
    if source.shape != expected:
        source = source.reshape((1,) * len(expected))
    return (of_rows(where, axis, input.shape) if input.ndim else where.reshape(())), source


def index_add(input: Any, dim: int, index: Any, source: Any, *, alpha: float = 1) -> Any:
    """input with alpha times the slices of source added to its slices at `index` along dim."""
    where, source = _slices("index_add", input, dim, index, source)
    if isinstance(alpha, float) and not input.is_floating_point():
        raise TypeError(f"index_add: alpha={alpha} does not fit dtype {input.dtype}")
    if source.shape != where.shape:
        source = broadcast_to(source, where.shape)
    if alpha != 1:
        source = arithmetic.mul(source, alpha)
    if not input.ndim:
        return arithmetic.add(input, source)
    axis = dimension(dim, input.ndim)
    numbers = index.array.astype(np.int64).reshape(-1)
    return arithmetic.add(input, spread_rows(source, numbers, axis, input.shape[axis]))


def index_copy(input: Any, dim: int, index: Any, source: Any) -> Any:
    """input with the slices of source in place of its slices at `index` along dim."""
    where, source = _slices("index_copy", input, dim, index, source)
    return place(input, source, where)


def index_fill(input: Any, dim: int, index: Any, value: Any) -> Any:
    """input with a number (or a tensor of no dimensions) for its slices at `index` along dim."""
    axis = dimension(dim, input.ndim)
    if index.ndim > 1:
        raise ValueError(f"index_fill needs a vector as index, got shape {index.shape}")
    size = input.shape[axis] if input.ndim else 1
    chosen = np.zeros(size, np.bool_)
    chosen[checked_index("index_fill", index, size, negative=True)] = True
    mask = chosen.reshape((-1,) + (1,) * (input.ndim - 1 - axis)) if input.ndim else chosen.reshape(())
    return _filled("index_fill", input, Tensor(mask), value)


def index_put(input: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    """input with input[indices] = values, or += with accumulate; values broadcast."""
    _same_dtype("index_put", input, values)
    selected, rest = raw_key(input.ndim, tuple(slice(None) if i is None else i for i in indices))
    where = np.arange(input.array.size).reshape(input.shape)[selected]
    where = np.asarray(where if rest is Ellipsis else where[rest])
    if not accumulate:
        return place(input, values, where)
    return arithmetic.add(input, spread(broadcast_to(values, where.shape), where, input.shape))


def put(input: Any, index: Any, source: Any, accumulate: bool = False) -> Any:
    """input with source at `index` of input laid out in a row (-1 is the last), or added there with accumulate."""
    _same_dtype("put", input, source)
    where = checked_index("put", index, input.array.size, negative=True)
    if where.size != source.array.size:
        raise ValueError(f"put: an index of shape {index.shape} and a source of shape {source.shape} differ in size")
    source = source.reshape(where.shape)
    if not accumulate:
        return place(input, source, where)
    return arithmetic.add(input, spread(source, where, input.shape))


def select_scatter(input: Any, src: Any, dim: int, index: int) -> Any:
    """input with src for its slice at `index` along dim."""
    return _at("select_scatter", input, src, (slice(None),) * dimension(dim, input.ndim) + (index,))


def slice_scatter(
    input: Any, src: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    """input with src for its elements start, start + step, ... below end along dim."""
    return _at("slice_scatter", input, src, (slice(None),) * dimension(dim, input.ndim) + (slice(start, end, step),))


def diagonal_scatter(input: Any, src: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """input with src for its diagonal; see `diagonal`."""
    positions = np.arange(input.array.size).reshape(input.shape)
    return _onto("diagonal_scatter", input, src, positions.diagonal(offset, dim1, dim2))


def _at(name: str, input: Any, source: Any, key: Any) -> Any:
    return _onto(name, input, source, np.asarray(np.arange(input.array.size).reshape(input.shape)[key]))


def _onto(name: str, input: Any, source: Any, where: Array) -> Any:
    if source.shape != where.shape:
        raise ValueError(f"{name}: that part of input {input.shape} has shape {where.shape}, the source {source.shape}")
    return place(input, source, where)


# -- by mask -----------------------------------------------------------------------------------------


def _filled(name: str, input: Any, mask: Any, value: Any) -> Any:
    if isinstance(value, Tensor):
        if value.ndim:
            raise ValueError(
                f"{name} takes a number or a tensor of no dimensions as value, got shape {value.shape} for input "
                f"{input.shape}"
            )
        value = value.to(input.dtype)
    else:
        if not _fits(value, input.dtype):
            raise TypeError(f"{name}: {value} does not fit dtype {input.dtype}")
        value = constant(np.asarray(value).astype(input.dtype))
    return arithmetic.where(mask, value, input)


def _fits(value: Any, dtype: np.dtype) -> bool:
    """Whether a number can be one of dtype: not complex, whole for integers, not too large."""
    if isinstance(value, complex):
        return False
    if is_float(dtype):
        return not math.isfinite(value) or abs(value) <= float(finfo(dtype).max)
    return dtype.kind == "b" or float(value).is_integer() and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


def masked_fill(input: Any, mask: Any, value: Any) -> Any:
    """input with a number (or a tensor of no dimensions) where mask, which broadcasts, is true.

    Raises TypeError for a number that the dtype cannot hold.
    """
    if mask.dtype != np.bool_:
        raise TypeError(f"masked_fill needs a mask of dtype bool, got {mask.dtype}")
    return _filled("masked_fill", input, mask, value)


def masked_scatter(input: Any, mask: Any, source: Any) -> Any:
    """input with the elements of source, one after the other, where mask is true; input and mask broadcast."""
    _same_dtype("masked_scatter", input, source)
    if mask.dtype != np.bool_:
        raise TypeError(f"masked_scatter needs a mask of dtype bool, got {mask.dtype}")
    shape = np.broadcast_shapes(input.shape, mask.shape)
    where = np.flatnonzero(np.broadcast_to(mask.array, shape))
    if source.array.size < where.size:
        raise ValueError(f"masked_scatter: {where.size} elements are masked, the source {source.shape} has fewer")
    if input.shape != shape:
        input = broadcast_to(input, shape)
    return place(input, source.reshape(-1)[: where.size], where)
