"""Ops that move elements without changing them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from dtrain.autograd import Joint, Tensor, op
from dtrain.backend import Array, joined, on_gpu, xp_of
from dtrain.ops.dtypes import Like, dimension, result_dtype, unbroadcast
from dtrain.ops.positions import slice_of

__all__ = [
    "broadcast_to", "cat", "chunk", "clone", "concat", "contiguous", "expand", "flatten", "permute", "reshape",
    "split", "split_with_sizes", "squeeze", "stack", "transpose", "unbind", "unsqueeze", "view",
]  # fmt: skip


def _shape(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """f(2, 3) and f((2, 3)) alike."""
    if len(sizes) == 1 and not isinstance(sizes[0], (int, np.integer, Tensor)):
        sizes = tuple(sizes[0])
    return tuple(int(s) for s in sizes)


@op(halves=True)
def _reshape(x: Any, shape: tuple[int, ...]) -> Any:
    if -1 in shape and not x.size:
        # Of no elements: as many as there would be per sample, so that x.view(len(x), -1) works for no samples.
        wanted, have = math.prod(s for s in shape if s > 0), math.prod(n for n in x.shape if n)
        shape = tuple((have // wanted if 0 in shape else 0) if s == -1 else s for s in shape)
    try:
        y = x.reshape(shape)
    except ValueError:
        raise ValueError(f"a tensor of shape {x.shape} ({x.size} elements) cannot take the shape {shape}") from None
    before = x.shape
    return y, lambda g: g.reshape(before)


def reshape(x: Any, *shape: Any) -> Any:
    """The elements in another shape; one size may be -1. Raises ValueError where the sizes do not fit."""
    return _reshape(x, _shape(shape))


def view(x: Any, *shape: Any) -> Any:
    """`reshape`; where PyTorch would refuse a layout, the elements are copied."""
    if len(shape) == 1 and isinstance(shape[0], (np.dtype, type)):
        return x.to(shape[0])
    return _reshape(x, _shape(shape))


def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Dimensions start_dim to end_dim (inclusive) made one."""
    n = max(x.ndim, 1)
    lo, hi = start_dim % n, end_dim % n
    if lo > hi:
        raise ValueError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim} in shape {x.shape}")
    shape = x.shape or (1,)
    return _reshape(x, (*shape[:lo], math.prod(shape[lo : hi + 1]), *shape[hi + 1 :]))


@op(halves=True)
def _permute(x: Any, dims: tuple[int, ...]) -> Any:
    return x.transpose(dims), lambda g: g.transpose(np.argsort(dims).tolist())


def permute(x: Any, *dims: Any) -> Any:
    """The dimensions in another order. Raises ValueError unless dims is a permutation."""
    order = _shape(dims)
    if sorted(d % max(x.ndim, 1) for d in order) != list(range(x.ndim)):
        raise ValueError(f"permute: {order} is no permutation of the {x.ndim} dimensions of shape {x.shape}")
    return _permute(x, tuple(d % x.ndim for d in order))


def transpose(x: Any, dim0: int, dim1: int) -> Any:
    """Two dimensions exchanged."""
    a, b = dimension(dim0, x.ndim), dimension(dim1, x.ndim)
    dims = list(range(x.ndim))
    if not dims:
        return _permute(x, ())
    dims[a], dims[b] = b, a
    return _permute(x, tuple(dims))


@op(halves=True)
def squeeze(x: Any, dim: Any = None) -> Any:
    """Without the dimensions of size 1 (all, or those of dim that have size 1)."""
    dims = range(x.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    axes = tuple({d % max(x.ndim, 1) for d in dims if x.ndim and x.shape[d] == 1})
    before = x.shape
    return x.squeeze(axes), lambda g: g.reshape(before)


@op(halves=True)
def unsqueeze(x: Any, dim: int) -> Any:
    """With a new dimension of size 1 at dim."""
    if not -x.ndim - 1 <= dim <= x.ndim:
        raise IndexError(f"unsqueeze: dim {dim} is out of range for shape {x.shape}")
    before = x.shape
    return xp_of(x).expand_dims(x, dim), lambda g: g.reshape(before)


@op(halves=True)
def broadcast_to(x: Any, shape: tuple[int, ...]) -> Any:
    """x repeated to `shape` by the rules of broadcasting, without a copy (read-only)."""
    before = Like(x)
    return xp_of(x).broadcast_to(x, tuple(shape)), lambda g: unbroadcast(g, before)


def expand(x: Any, *sizes: Any) -> Any:
    """Dimensions of size 1 repeated to the given sizes; -1 keeps a size."""
    shape = _shape(sizes)
    lead = len(shape) - x.ndim
    return broadcast_to(x, tuple(x.shape[i - lead] if s == -1 else s for i, s in enumerate(shape)))


@op(halves=True)
def clone(x: Any) -> Any:
    """A copy."""
    return x.copy(), lambda g: g


@op(halves=True)
def contiguous(x: Any) -> Any:
    """x in row-major order, copied only where it is not."""
    return xp_of(x).asarray(x, order="C"), lambda g: g


@op(halves=True)
def _cat(*arrays: Any, dim: int = 0) -> Any:
    xp = xp_of(*arrays)
    dtype = result_dtype(*arrays)
    y = (joined(arrays, dim) if on_gpu(arrays[0]) else xp.concatenate(arrays, dim)).astype(dtype, copy=False)
    ends, dtypes = np.cumsum([a.shape[dim] for a in arrays]).tolist(), [a.dtype for a in arrays]

    def pullback(g: Any, needs: Sequence[bool]) -> list[Array | None]:
        parts = xp_of(g).split(g, ends[:-1], dim)
        return [p.astype(d, copy=False) if n else None for p, d, n in zip(parts, dtypes, needs, strict=True)]

    return y, Joint(pullback)


def cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Tensors joined along dim; the other sizes must agree. Raises ValueError otherwise, TypeError for no tensors."""
    if not tensors:
        raise ValueError("cat needs at least one tensor")
    for i, t in enumerate(tensors):
        if not hasattr(t, "ndim"):
            raise TypeError(f"cat joins tensors, number {i} is a {type(t).__name__}")
    if not all(t.ndim for t in tensors):
        raise ValueError(f"cat: tensors of no dimensions cannot be joined, got shapes {[t.shape for t in tensors]}")
    tensors = [t for t in tensors if t.shape != (0,)] or tensors  # of no elements: fits everywhere, as in PyTorch
    shapes = [t.shape for t in tensors]
    if len({len(s) for s in shapes}) > 1 or len({(*s[: dim % len(s)], *s[dim % len(s) + 1 :]) for s in shapes}) > 1:
        raise ValueError(f"cat along dim {dim}: the shapes {shapes} differ in more than that dimension")
    return _cat(*tensors, dim=dim)


concat = cat


def stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Tensors of one shape joined along a new dimension."""
    if len({t.shape for t in tensors}) != 1:
        raise ValueError(f"stack needs tensors of one shape, got {[t.shape for t in tensors]}")
    return _cat(*[unsqueeze(t, dim) for t in tensors], dim=dim)


@op(halves=True)
def _split(x: Any, ends: tuple[int, ...], dim: int) -> Any:
    xp = xp_of(x)
    parts = tuple(xp.split(x, ends, dim))

    def pullback(g: Any, needs: Sequence[bool]) -> list[Array]:
        # In the memory layout of x, so that what x was reshaped from takes it without a copy.
        whole = xp.empty_like(x)
        for part, h in zip(xp.split(whole, ends, dim), g, strict=True):
            part[...] = 0 if h is None else h
        return [whole]

    return parts, Joint(pullback)


@_split.formula
def _(x: Any, ends: tuple[int, ...], dim: int) -> Any:
    axis, edges = dim % x.ndim, [0, *ends, x.shape[dim]]
    return tuple(slice_of(x, (slice(None),) * axis + (slice(a, b),)) for a, b in pairwise(edges))


def split(x: Any, split_size_or_sections: int | Sequence[int], dim: int = 0) -> Any:
    """Pieces of one size (the last may be smaller), or of the given sizes, along dim."""
    n = x.shape[dim]
    if isinstance(split_size_or_sections, int):
        sizes = [split_size_or_sections] * max(1, -(-n // split_size_or_sections))
        sizes[-1] = n - sum(sizes[:-1])
    else:
        sizes = list(split_size_or_sections)
        if sum(sizes) != n:
            raise ValueError(f"split: the sizes {sizes} add up to {sum(sizes)}, dim {dim} has {n} elements")
    return _split(x, tuple(int(e) for e in np.cumsum(sizes)[:-1]), dim)


def split_with_sizes(x: Any, split_sizes: Sequence[int], dim: int = 0) -> Any:
    """Pieces of the given sizes along dim. Raises ValueError unless these add up to the size of dim."""
    return split(x, tuple(split_sizes), dim)


def chunk(x: Any, chunks: int, dim: int = 0) -> Any:
    """At most `chunks` pieces of equal size along dim; the last may be smaller."""
    return split(x, max(1, -(-x.shape[dim] // chunks)), dim)


def unbind(x: Any, dim: int = 0) -> Any:
    """The slices along dim, as a tuple, without that dimension. Raises IndexError where there is none."""
    if not x.ndim:
        raise IndexError(f"unbind: a tensor of shape {x.shape} has no dimension {dim}")
    dim = dimension(dim, x.ndim)
    return tuple(squeeze(part, dim) for part in split(x, 1, dim)) if x.shape[dim] else ()
