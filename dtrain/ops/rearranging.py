"""Dimensions and elements put elsewhere: made of the ops of `shape.py` and `positions.py`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.autograd import Tensor
from dtrain.ops import shape as shapes
from dtrain.ops.dtypes import dimension
from dtrain.ops.positions import rows, slice_of, take_flat
from dtrain.ops.shape import broadcast_to, cat, permute, reshape, split, stack, transpose, unsqueeze

__all__ = [
    "adjoint", "atleast_1d", "atleast_2d", "atleast_3d", "block_diag", "broadcast_shapes", "broadcast_tensors",
    "cartesian_prod", "column_stack", "combinations", "concatenate", "dsplit", "dstack", "expand_as", "flip", "fliplr",
    "flipud", "hsplit", "hstack", "meshgrid", "moveaxis", "movedim", "ravel", "repeat", "repeat_interleave",
    "reshape_as", "roll", "rot90", "row_stack", "swapaxes", "swapdims", "t", "tensor_split", "tile", "unflatten",
    "unsafe_chunk", "unsafe_split", "view_as", "vsplit", "vstack",
]  # fmt: skip


def _tensors(tensors: Any) -> list[Any]:
    return list(tensors[0]) if len(tensors) == 1 and not isinstance(tensors[0], Tensor) else list(tensors)


def _sizes(sizes: Any) -> tuple[int, ...]:
    given = sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], (int, np.integer)) else sizes
    return tuple(int(n) for n in given)


# -- dimensions --------------------------------------------------------------------------------------


def movedim(input: Any, source: Any, destination: Any) -> Any:
    """Dimensions moved to new places; the others keep their order. Raises ValueError for repeated ones."""
    old = (source,) if isinstance(source, int) else tuple(source)
    new = (destination,) if isinstance(destination, int) else tuple(destination)
    n = input.ndim
    old, new = tuple(dimension(d, n) for d in old), tuple(dimension(d, n) for d in new)
    if len(old) != len(new) or len({*old}) < len(old) or len({*new}) < len(new):
        raise ValueError(f"movedim: {source} and {destination} must name as many dimensions, each once")
    if not n:
        return input
    rest = iter(d for d in range(n) if d not in old)
    return permute(input, *[old[new.index(d)] if d in new else next(rest) for d in range(n)])


moveaxis = movedim


def t(input: Any) -> Any:
    """A matrix transposed; a vector or number as it is. Raises ValueError for more dimensions."""
    if input.ndim > 2:
        raise ValueError(f"t needs two dimensions at most, got shape {input.shape}; use transpose or mT")
    return transpose(input, 0, 1) if input.ndim == 2 else input


def adjoint(input: Any) -> Any:
    """The last two dimensions exchanged (tensors are real). Raises ValueError for less than two."""
    if input.ndim < 2:
        raise ValueError(f"adjoint needs at least two dimensions, got shape {input.shape}")
    return transpose(input, -1, -2)


def swapdims(input: Any, dim0: int, dim1: int) -> Any:
    """Two dimensions exchanged."""
    return transpose(input, dim0, dim1)


def swapaxes(input: Any, axis0: int, axis1: int) -> Any:
    """Two dimensions exchanged."""
    return transpose(input, axis0, axis1)


def ravel(input: Any) -> Any:
    """All elements in a row."""
    return reshape(input, -1)


def view_as(input: Any, other: Any) -> Any:
    """The elements in the shape of `other`, which must have as many."""
    return reshape(input, other.shape)


def reshape_as(input: Any, other: Any) -> Any:
    """The elements in the shape of `other`, which must have as many."""
    return reshape(input, other.shape)


def expand_as(input: Any, other: Any) -> Any:
    """Dimensions of size 1 repeated to the sizes of `other`."""
    return shapes.expand(input, *other.shape)


def unflatten(input: Any, dim: int, sizes: Sequence[int]) -> Any:
    """One dimension as several of the given sizes, one of which may be -1. Raises ValueError where they do not fit."""
    axis, parts = dimension(dim, input.ndim), list(sizes)
    if not parts:
        raise ValueError("unflatten needs at least one size")
    n = input.shape[axis] if input.ndim else 1
    known = math.prod(k for k in parts if k != -1)
    if parts.count(-1) == 1 and known:
        parts[parts.index(-1)] = n // known
    if math.prod(parts) != n:
        raise ValueError(f"unflatten: sizes {tuple(sizes)} do not give the {n} elements of dim {dim} of {input.shape}")
    return reshape(input, *input.shape[:axis], *parts, *input.shape[axis + 1 :])


def broadcast_shapes(*shapes: Any) -> tuple[int, ...]:
    """The shape to which shapes (tuples, or a number for a vector) broadcast together. ValueError where they do not."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(f"broadcast_shapes: shapes {shapes} do not broadcast together") from None


def broadcast_tensors(*tensors: Any) -> tuple[Any, ...]:
    """All tensors in their common shape. Raises ValueError where they have none."""
    given = _tensors(tensors)
    try:
        common = np.broadcast_shapes(*[t.shape for t in given])
    except ValueError:
        raise ValueError(f"the shapes {[t.shape for t in given]} do not broadcast together") from None
    return tuple(t if t.shape == common else broadcast_to(t, common) for t in given)


def _at_least(n: int, tensors: Any) -> Any:
    if not isinstance(tensors, Tensor):
        return tuple(_at_least(n, t) for t in tensors)
    x = tensors
    if n == 3 and x.ndim == 2:
        return unsqueeze(x, -1)
    while x.ndim < n:
        x = unsqueeze(x, 0) if x.ndim != 1 or n < 3 else unsqueeze(unsqueeze(x, 0), -1)
    return x


def atleast_1d(*tensors: Any) -> Any:
    """With at least one dimension; several tensors or a list of them give a tuple."""
    return _at_least(1, tensors[0] if len(tensors) == 1 else tensors)


def atleast_2d(*tensors: Any) -> Any:
    """With at least two dimensions: a vector becomes a row."""
    return _at_least(2, tensors[0] if len(tensors) == 1 else tensors)


def atleast_3d(*tensors: Any) -> Any:
    """With at least three dimensions: a vector becomes (1, n, 1), a matrix (m, n, 1)."""
    return _at_least(3, tensors[0] if len(tensors) == 1 else tensors)


# -- joining and splitting ---------------------------------------------------------------------------


def concatenate(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Tensors joined along dim: another name of `cat`."""
    return cat(tensors, dim)


def hstack(tensors: Sequence[Any]) -> Any:
    """Joined along the second dimension; vectors along the first."""
    wide = atleast_1d(list(tensors))
    return cat(wide, 0 if wide and wide[0].ndim == 1 else 1)


def vstack(tensors: Sequence[Any]) -> Any:
    """Joined along the first dimension; vectors are rows."""
    return cat(atleast_2d(list(tensors)), 0)


row_stack = vstack


def dstack(tensors: Sequence[Any]) -> Any:
    """Joined along the third dimension."""
    return cat(atleast_3d(list(tensors)), 2)


def column_stack(tensors: Sequence[Any]) -> Any:
    """Joined along the second dimension; vectors are columns."""
    return cat([reshape(t, -1, 1) if t.ndim < 2 else t for t in tensors], 1)


def tensor_split(input: Any, indices_or_sections: Any, dim: int = 0) -> tuple[Any, ...]:
    """So many pieces along dim, the first ones larger by one where they differ; or pieces that end at the indices."""
    if not input.ndim:
        raise ValueError("tensor_split needs a tensor with at least one dimension")
    axis = dimension(dim, input.ndim)
    n = input.shape[axis]
    given = indices_or_sections.tolist() if isinstance(indices_or_sections, Tensor) else indices_or_sections
    if isinstance(given, (int, np.integer)):
        if given < 1:
            raise ValueError(f"tensor_split: the number of sections must be positive, got {given}")
        ends = [(i + 1) * (n // given) + min(i + 1, n % given) for i in range(given - 1)]
    else:
        ends = [int(i) for i in given]
    begins = [0, *ends]
    slices = [slice(b, e) for b, e in zip(begins, [*ends, None], strict=True)]
    return tuple(slice_of(input, (slice(None),) * axis + (s,)) for s in slices)


def _split_along(name: str, least: int, axis: int) -> Any:
    def function(input: Any, indices_or_sections: Any) -> tuple[Any, ...]:
        if input.ndim < least:
            raise ValueError(f"{name} needs a tensor of at least {least} dimensions, got shape {input.shape}")
        dim = min(axis, input.ndim - 1)
        sections = indices_or_sections
        if isinstance(sections, int) and (sections < 1 or input.shape[dim] % sections):
            raise ValueError(f"{name}: {sections} sections do not divide dim {dim} of shape {input.shape}")
        return tensor_split(input, sections, dim)

    function.__name__, function.__doc__ = name, "`tensor_split` along one dimension, into equal sections."
    return function


hsplit = _split_along("hsplit", 1, 1)
vsplit = _split_along("vsplit", 2, 0)
dsplit = _split_along("dsplit", 3, 2)


def unsafe_split(input: Any, split_size: Any, dim: int = 0) -> Any:
    """Pieces of one size or of the given sizes along dim, as `split`."""
    return split(input, split_size, dim)


def unsafe_chunk(input: Any, chunks: int, dim: int = 0) -> Any:
    """At most so many pieces of equal size along dim, as `chunk`."""
    return shapes.chunk(input, chunks, dim)


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Any, ...]:
    """Coordinates of a grid from vectors: output i varies along dimension i ("xy": the first two exchanged)."""
    given = _tensors(tensors)
    if not given or any(t.ndim > 1 for t in given) or indexing not in ("ij", "xy"):
        raise ValueError(
            f"meshgrid needs vectors and indexing 'ij' or 'xy', got {[t.shape for t in given]}, {indexing!r}"
        )
    turned = indexing == "xy" and len(given) > 1
    if turned:
        given[:2] = given[1::-1]
    grid = tuple(t.array.size for t in given)
    found = [
        broadcast_to(reshape(t, *[-1 if k == i else 1 for k in range(len(given))]), grid) for i, t in enumerate(given)
    ]
    if turned:
        found[:2] = found[1::-1]
    return tuple(found)


def cartesian_prod(*tensors: Any) -> Any:
    """All combinations of one element of each vector, one a row; of one vector itself."""
    if len(tensors) == 1:
        return tensors[0]
    return stack([reshape(t, -1) for t in meshgrid(*tensors)], 1)


def combinations(input: Any, r: int = 2, with_replacement: bool = False) -> Any:
    """All combinations of r elements of a vector, one a row."""
    if input.ndim != 1 or r < 0:
        raise ValueError(f"combinations needs a vector and r >= 0, got shape {input.shape} and {r}")
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    found = np.array(list(choose(range(len(input)), r)), np.int64).reshape(-1, r) if r else np.zeros(0, np.int64)
    return take_flat(input, found)


def block_diag(*tensors: Any) -> Any:
    """Matrices (vectors are rows) along the diagonal of a larger one, zeros elsewhere."""
    from dtrain.ops.creation import zeros

    blocks = [atleast_2d(t) for t in tensors]
    if any(b.ndim > 2 for b in blocks):
        raise ValueError(f"block_diag needs matrices, got shapes {[t.shape for t in tensors]}")
    dtype = np.result_type(*[b.dtype for b in blocks])
    width, at, lines = sum(b.shape[1] for b in blocks), 0, []
    for b in blocks:
        m, n = b.shape
        left, right = (zeros(m, k, dtype=dtype) for k in (at, width - at - n))
        lines.append(cat([left, b.to(dtype), right], 1))
        at += n
    return cat(lines, 0)


# -- repeating ---------------------------------------------------------------------------------------


def repeat(input: Any, *repeats: Any) -> Any:
    """input beside itself so many times along each dimension; there may be more numbers than dimensions."""
    times = _sizes(repeats)
    if len(times) < input.ndim or any(n < 0 for n in times):
        raise ValueError(f"repeat: {times} must be a number >= 0 for each of the dimensions of shape {input.shape}")
    sizes = (1,) * (len(times) - input.ndim) + input.shape
    apart = reshape(input, *[k for n in sizes for k in (1, n)])
    whole = broadcast_to(apart, tuple(k for r, n in zip(times, sizes, strict=True) for k in (r, n)))
    return reshape(whole, *[r * n for r, n in zip(times, sizes, strict=True)])


def tile(input: Any, *dims: Any) -> Any:
    """`repeat`; where dims are fewer than dimensions, the last ones are meant."""
    times = _sizes(dims)
    return repeat(input, *(1,) * (input.ndim - len(times)), *times) if times or input.ndim else input


def repeat_interleave(
    input: Any, repeats: Any = None, dim: int | None = None, *, output_size: int | None = None
) -> Any:
    """Each slice along dim so many times, one after the other; without dim, of all elements in a row.

    repeats: a number, or one for each slice. With repeats alone, a tensor, the numbers of the slices.
    """
    if repeats is None:
        return Tensor(np.repeat(np.arange(input.array.size), input.array))
    counts = repeats.array if isinstance(repeats, Tensor) else np.asarray(repeats)
    if dim is None:
        input, dim = reshape(input, -1), 0
    axis = dimension(dim, input.ndim)
    n = input.shape[axis] if input.ndim else 1
    if counts.dtype.kind not in "iu" or counts.ndim > 1 or counts.size not in (1, n) or (counts < 0).any():
        raise ValueError(f"repeat_interleave: repeats must be one integer >= 0, or {n} for dim {dim} of {input.shape}")
    where = np.repeat(np.arange(n), counts.reshape(-1) if counts.size > 1 else int(counts.reshape(-1)[0]))
    return rows(input if input.ndim else reshape(input, 1), where, axis)


# -- turning -----------------------------------------------------------------------------------------


def flip(input: Any, *order: Any, dims: Any = None) -> Any:
    """In reverse order along dims, given as numbers or as one tuple."""
    axes = [dimension(d, input.ndim) for d in _sizes(order if dims is None else (dims,))]
    if len({*axes}) < len(axes):
        raise ValueError(f"flip: dims {axes} name a dimension twice")
    key = tuple(slice(None, None, -1) if d in axes else slice(None) for d in range(input.ndim))
    return shapes.contiguous(slice_of(input, key))


def fliplr(input: Any) -> Any:
    """In reverse order along the second dimension."""
    if input.ndim < 2:
        raise ValueError(f"fliplr needs at least two dimensions, got shape {input.shape}")
    return flip(input, 1)


def flipud(input: Any) -> Any:
    """In reverse order along the first dimension."""
    if not input.ndim:
        raise ValueError("flipud needs at least one dimension")
    return flip(input, 0)


def roll(input: Any, shifts: Any, dims: Any = None) -> Any:
    """Moved along dims by shifts, what leaves at one end coming in at the other; without dims, in a row."""
    steps = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    if dims is None or dims == ():
        if len(steps) != 1:
            raise ValueError(f"roll: {len(steps)} shifts need as many dims")
        return reshape(roll(reshape(input, -1), steps, 0), input.shape)
    axes = (dims,) if isinstance(dims, int) else tuple(dims)
    if len(axes) != len(steps):
        raise ValueError(f"roll: shifts {steps} and dims {axes} must be as many")
    for step, dim in zip(steps, axes, strict=True):
        axis = dimension(dim, input.ndim)
        if not input.ndim:
            raise IndexError(f"roll: there is no dim {dim} in a tensor of shape {input.shape}")
        if input.shape[axis]:
            n = input.shape[axis]
            input = rows(input, (np.arange(n) - step) % n, axis)
    return input


def rot90(input: Any, k: int = 1, dims: Sequence[int] = (0, 1)) -> Any:
    """Turned k times by 90 degrees, from the first of dims towards the second."""
    a, b = (dimension(d, input.ndim) for d in dims)
    if a == b or len(dims) != 2:
        raise ValueError(f"rot90: dims must be two different ones, got {dims}")
    if k % 4 == 0:
        return shapes.clone(input)
    if k % 4 == 2:
        return flip(input, a, b)
    return transpose(flip(input, b), a, b) if k % 4 == 1 else flip(transpose(input, a, b), b)
