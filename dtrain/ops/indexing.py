"""Elements chosen by index or mask. Writing to chosen places is in `scatter.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, op
from dtrain.backend import capture, on_gpu
from dtrain.ops.dtypes import dimension
from dtrain.ops.positions import along, checked_index, rows, slice_of, take_flat
from dtrain.ops.shape import broadcast_to

__all__ = [
    "argwhere", "count_nonzero", "gather", "index", "index_select", "masked_select", "narrow", "nonzero",
    "nonzero_static", "raw_key", "select", "take", "take_along_dim", "unravel_index",
]  # fmt: skip


_SIZED = "it makes tensors of sizes that depend on values"


# -- x[key] ------------------------------------------------------------------------------------------


def _is_basic(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    return all(
        p is None or p is Ellipsis or isinstance(p, (slice, int, np.integer)) and not isinstance(p, bool) for p in parts
    )


def _is_array(k: Any) -> bool:
    return isinstance(k, np.ndarray) or on_gpu(k)


def _index(x: Any, key: Any) -> Any:
    if _is_basic(key) or _is_array(key) and key.dtype == np.bool_ or isinstance(key, bool):
        return slice_of(x, key)
    if _is_array(key) and key.ndim == 1 and x.ndim > 1:
        return rows(x, checked_index("index", key, x.shape[0], negative=True), 0)
    if not isinstance(x, Tensor) or not x.requires_grad:
        return slice_of(x, key)
    where = np.arange(x.array.size, like=x.array).reshape(x.shape)[key]
    return take_flat(x, where)


def index(x: Any, key: Any) -> Any:
    """x[key], with basic and advanced indexing as in PyTorch; keys may be tensors."""
    selected, rest = raw_key(x.ndim, key)
    if selected is not Ellipsis:
        x = _index(x, selected)
    return x if rest is Ellipsis else _index(x, rest)


def raw_key(ndim: int, key: Any) -> tuple[Any, Any]:
    """(selected, rest): x[key] is x[selected][rest], both without tensors; Ellipsis where there is nothing to do.

    NumPy takes a number beside an array for another array, and moves dimensions; PyTorch selects first.
    """
    parts = [_raw(k) for k in key] if isinstance(key, tuple) else [_raw(key)]
    arrays = [k for k in parts if _is_array(k) and k.ndim]
    if not arrays or not any(isinstance(k, (int, np.integer)) and not isinstance(k, bool) for k in parts):
        return (tuple(parts) if isinstance(key, tuple) else parts[0]), Ellipsis
    taken = sum(k.ndim if _is_array(k) and k.dtype == np.bool_ else k is not None for k in parts)
    if any(k is Ellipsis for k in parts):
        place = next(i for i, k in enumerate(parts) if k is Ellipsis)
        parts[place : place + 1] = [slice(None)] * (ndim - taken + 1)
    selected: list[Any] = []
    rest = []
    for k in parts:
        if isinstance(k, (int, np.integer)):
            selected.append(k)
            continue
        rest.append(k)
        if k is not None:
            selected += [slice(None)] * (k.ndim if _is_array(k) and k.dtype == np.bool_ else 1)
    return tuple(selected), tuple(rest)


def _raw(k: Any) -> Any:
    """One part of an indexing key; lists and tensors as arrays, masks of bytes as masks."""
    if isinstance(k, list):
        k = np.asarray([_raw(part) for part in k]) if k else np.zeros(0, np.int64)
    if isinstance(k, Tensor):
        k = k.array
    return k.astype(np.bool_) if _is_array(k) and k.dtype == np.uint8 else k


def select(input: Any, dim: int, index: int) -> Any:
    """The slice at `index` along dim, without that dimension."""
    if not input.ndim:
        raise IndexError("select: a tensor of no dimensions has no slices")
    axis = dimension(dim, input.ndim)
    if not -input.shape[axis] <= int(index) < input.shape[axis]:
        raise IndexError(f"select: index {index} is out of range for dim {dim} of shape {input.shape}")
    return slice_of(input, (slice(None),) * axis + (int(index),))


def narrow(input: Any, dim: int, start: Any, length: int) -> Any:
    """`length` elements from `start` (a number, or a tensor of one) along dim."""
    axis = dimension(dim, input.ndim)
    n = input.shape[axis] if input.ndim else 0
    if isinstance(start, Tensor) and (start.array.size != 1 or start.array.dtype.kind not in "iu" or start.ndim):
        raise TypeError(f"narrow: start must be one integer, got shape {start.shape} of {start.dtype}")
    begin = int(start) + (n if int(start) < 0 else 0)
    if not input.ndim or length < 0 or not 0 <= begin <= begin + length <= n:
        raise IndexError(f"narrow: {length} elements from {start} do not lie in dim {dim} of shape {input.shape}")
    return slice_of(input, (slice(None),) * axis + (slice(begin, begin + length),))


# -- by index ----------------------------------------------------------------------------------------


def gather(input: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
    """input[i, index[i, j]] for dim 1, and likewise: elements along dim, in the shape of `index`.

    The other sizes of index may be smaller than input's. Raises ValueError for sizes that are larger,
    IndexError for an index out of range.
    """
    axis = dimension(dim, input.ndim)
    check_fit("gather", input, axis, index)
    where = checked_index("gather", index, input.shape[axis] if input.ndim else 1)
    return take_flat(input, along(where, axis, input.shape) if input.ndim else where)


def check_fit(name: str, input: Any, axis: int, index: Any) -> None:
    """Raise ValueError where index has other dimensions than input, or sizes too large for it beside `axis`."""
    if index.array.size and (
        index.ndim != input.ndim
        and max(index.ndim, 1) != max(input.ndim, 1)
        or any(i > n for d, (i, n) in enumerate(zip(index.shape, input.shape, strict=False)) if d != axis)
    ):
        raise ValueError(
            f"{name}: an index of shape {index.shape} does not fit shape {input.shape} along dim {axis}; it needs as "
            "many dimensions, and sizes that are not larger but in that dim"
        )


def index_select(input: Any, dim: int, index: Any) -> Any:
    """The slices along dim at `index`, a vector. Raises ValueError for an index of more dimensions."""
    axis = dimension(dim, input.ndim)
    if index.ndim > 1:
        raise ValueError(f"index_select needs a vector as index, got shape {index.shape} for input {input.shape}")
    where = checked_index("index_select", index, input.shape[axis] if input.ndim else 1)
    if not input.ndim:
        return take_flat(input, where.reshape(input.shape))
    return rows(input, where.reshape(-1), axis)


def take(input: Any, index: Any) -> Any:
    """The elements at `index` of input laid out in a row, in the shape of index; -1 is the last."""
    return take_flat(input, checked_index("take", index, input.array.size, negative=True))


def take_along_dim(input: Any, indices: Any, dim: int | None = None) -> Any:
    """`gather`, with the other dimensions broadcast; over all elements without dim. NumPy's take_along_axis."""
    if dim is None:
        return take(input, Tensor(indices.array.reshape(-1)))
    if input.ndim != indices.ndim:
        raise ValueError(
            f"take_along_dim: input {input.shape} and indices {indices.shape} need as many dimensions; use unsqueeze"
        )
    axis = dimension(dim, input.ndim)
    beside = [(*t.shape[:axis], 1, *t.shape[axis + 1 :]) for t in (input, indices)]
    common = np.broadcast_shapes(*beside) if input.ndim else ()
    sized = lambda n: (*common[:axis], n, *common[axis + 1 :]) if input.ndim else ()  # noqa: E731
    where = checked_index("take_along_dim", indices, input.shape[axis] if input.ndim else 1, negative=True)
    where = np.broadcast_to(where, sized(where.shape[axis] if where.ndim else 1))
    whole = sized(input.shape[axis] if input.ndim else 1)
    return gather(input if input.shape == whole else broadcast_to(input, whole), dim, Tensor(where))


# -- by mask -----------------------------------------------------------------------------------------


def masked_select(input: Any, mask: Any) -> Any:
    """The elements where mask is true, in a row; both broadcast. Raises TypeError unless mask is bool."""
    if mask.dtype != np.bool_:
        raise TypeError(f"masked_select needs a mask of dtype bool, got {mask.dtype}")
    capture.refuse(_SIZED)
    shape = np.broadcast_shapes(input.shape, mask.shape)
    if input.shape != shape:
        input = broadcast_to(input, shape)
    return slice_of(input, np.broadcast_to(mask.array, shape) if shape else mask.array)


def nonzero(input: Any, *, as_tuple: bool = False) -> Any:
    """The places of what is not zero: (count, ndim), or with as_tuple one vector per dimension."""
    if as_tuple:
        return tuple(map(Tensor, np.nonzero(np.atleast_1d(input.array))))
    return argwhere(input)


def argwhere(input: Any) -> Any:
    """The places of what is not zero: (count, ndim)."""
    capture.refuse(_SIZED)
    return _argwhere(input)


@op
def _argwhere(input: Any) -> Any:
    return np.argwhere(input).astype(np.int64, copy=False), None


def nonzero_static(input: Any, *, size: int, fill_value: int = -1) -> Any:
    """The first `size` rows of `nonzero`, filled up with fill_value."""
    found = np.argwhere(input.array)[:size]
    rest = np.full((size - len(found), input.ndim), fill_value)
    return Tensor(np.concatenate([found, rest]).astype(np.int64))


@op
def count_nonzero(input: Any, dim: int | Sequence[int] | None = None) -> Any:
    """How many elements are not zero, over dim."""
    axes = None if dim is None else tuple(dimension(d, input.ndim) for d in np.atleast_1d(np.asarray(dim, int)))
    return np.asarray(np.count_nonzero(input, axes if input.ndim else None), np.int64), None


def unravel_index(indices: Any, shape: Any) -> Any:
    """The coordinates in an array of `shape` of positions in it laid out in a row: one tensor per dimension."""
    if indices.dtype.kind not in "iu":
        raise TypeError(f"unravel_index needs integers, got {indices.dtype}")
    sizes = (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(int(n) for n in shape)
    where = checked_index("unravel_index", indices, int(np.prod(sizes)), negative=True)
    return tuple(Tensor(np.asarray(c, np.int64)) for c in np.unravel_index(where, sizes))
