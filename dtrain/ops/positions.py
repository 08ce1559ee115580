"""Elements at places of an array: taken, put, added. Indexing, gathering, scattering, sorting are made of these.

A place is a position in the array laid out in rows (`x.reshape(-1)[where]`), or a row of a dimension. Each op's
gradient is another op of this file, so all can be differentiated again. Elements that fall on one place
are added one after the other, in the order of `where`, or of rows in pairs: never in an order that depends on threads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dtrain.autograd import as_one_call, op
from dtrain.backend import Array, backend_of, on_gpu, xp_of
from dtrain.ops.dtypes import plain, unbroadcast

__all__ = [
    "along", "checked_index", "of_rows", "place", "rows", "slice_of", "spread", "spread_rows", "take_flat", "unslice",
]  # fmt: skip


@op(halves=True)
def take_flat(x: Any, where: Array) -> Any:
    """x.reshape(-1)[where]: the elements at `where`, in its shape."""
    shape = x.shape  # the pullbacks of this file keep no array of values
    return plain(x).reshape(-1)[where], lambda g: spread.raw(g, where, shape)


@op
def spread(g: Any, where: Array, shape: tuple[int, ...]) -> Any:
    """Zeros of `shape` to which the elements of g are added at `where`. g and where have one shape."""
    h = plain(g)
    h = xp_of(h).asarray(h)
    flat = backend_of(h).add_at(h.reshape(-1), where.reshape(-1), math.prod(shape))
    return flat.reshape(shape), lambda k: take_flat.raw(k, where)


@op(halves=True)
def place(x: Any, source: Any, where: Array) -> Any:
    """x with `source`, a number or an array that broadcasts, at `where`; of several on one place the last stays."""
    flat = plain(x).reshape(-1).copy()
    flat[where] = plain(source)
    return flat.reshape(x.shape), (
        lambda g: place.raw(g, 0, where),
        lambda g: unbroadcast(take_flat.raw(g, where), source),
    )


@op(halves=True)
def slice_of(x: Any, key: Any) -> Any:
    """x[key] for slices, numbers or a mask: no element is taken twice. Without a copy for slices."""
    shape = x.shape
    return plain(x)[key], lambda g: unslice.raw(g, key, shape)


@op(halves=True)
def unslice(g: Any, key: Any, shape: tuple[int, ...]) -> Any:
    """Zeros of `shape` with g at `key`."""
    h = plain(g)
    full = xp_of(h).zeros(shape, h.dtype)
    full[key] = h
    return full, lambda k: slice_of.raw(k, key)


@op(halves=True)
def rows(x: Any, index: Array, dim: int) -> Any:
    """The slices of x along dim at `index`, a vector of numbers from 0."""
    size = x.shape[dim]
    return plain(x).take(index, dim), lambda g: spread_rows.raw(g, index, dim, size)


@op
def spread_rows(g: Any, index: Array, dim: int, size: int) -> Any:
    """Zeros, `size` along dim, to whose slices at `index` the slices of g are added."""
    h = plain(g)
    xp = xp_of(h)
    turned = xp.moveaxis(h, dim, 0)
    width = math.prod(turned.shape[1:])
    shape = (size, *turned.shape[1:])
    if width < 4 or h.dtype.kind == "b":
        where = (index[:, None] * width + np.arange(width, like=index)).reshape(-1)
        full = backend_of(h).add_at(turned.reshape(-1), where, size * width)
    else:
        full = backend_of(h).embedding_grad(turned.reshape(len(index), width), index, size)
    return xp.moveaxis(full.reshape(shape), 0, dim), lambda k: rows.raw(k, index, dim)


# -- positions ---------------------------------------------------------------------------------------


def along(index: Array, dim: int, shape: tuple[int, ...]) -> Array:
    """The positions in an array of `shape` that `index` points to along dim: (i, j) -> (index[i, j], j) for dim 0."""
    where = index * math.prod(shape[dim + 1 :])
    for d, n in enumerate(index.shape):
        if d != dim:
            line = np.arange(n, like=index) * math.prod(shape[d + 1 :])
            where = where + line.reshape((-1,) + (1,) * (index.ndim - 1 - d))
    return where


def of_rows(index: Array, dim: int, shape: tuple[int, ...]) -> Array:
    """The positions in an array of `shape` of the slices at `index` along dim."""
    return np.arange(math.prod(shape), like=index).reshape(shape).take(index, dim)


@as_one_call
def checked_index(name: str, index: Any, size: int, negative: bool = False) -> Array:
    """The array of `index`, integers below size, as int64. Raises TypeError and IndexError where they are not."""
    array = getattr(index, "array", index)
    if not on_gpu(array):
        array = np.asarray(array)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name} needs an index of integers, got {array.dtype}")
    array = array.astype(np.int64, copy=False)
    low = -size if negative else 0
    if array.size and (array.min() < low or array.max() >= size):
        worst = array.min() if array.min() < low else array.max()
        raise IndexError(f"{name}: index {worst} is out of range for a size of {size}; use {low} to {size - 1}")
    return array % size if negative and size else array
