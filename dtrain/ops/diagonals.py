"""Diagonals, triangles and windows: elements of matrices and vectors by where they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, constant
from dtrain.ops.dtypes import dimension, in_float32
from dtrain.ops.positions import spread, take_flat
from dtrain.ops.rearranging import flip
from dtrain.ops.shape import reshape, unsqueeze

__all__ = [
    "diag", "diag_embed", "diagflat", "diagonal", "powers", "trace", "tril", "tril_indices", "triu", "triu_indices",
    "unfold", "vander",
]  # fmt: skip


def _masked(input: Any, keep: Any) -> Any:
    from dtrain.ops.arithmetic import where

    return where(constant(np.broadcast_to(keep, input.shape)), input, constant(np.zeros((), input.dtype)))


def _check_matrix(name: str, input: Any) -> None:
    if input.ndim < 2:
        raise ValueError(f"{name} needs a matrix or a batch of them, got shape {input.shape}")


def _lower(input: Any, diagonal: int) -> Any:
    rows, columns = input.shape[-2:]
    return np.arange(columns) <= np.arange(rows)[:, None] + diagonal


def tril(input: Any, diagonal: int = 0) -> Any:
    """The lower triangles of matrices, up to a diagonal, zeros elsewhere."""
    _check_matrix("tril", input)
    return _masked(input, _lower(input, diagonal))


def triu(input: Any, diagonal: int = 0) -> Any:
    """The upper triangles of matrices, from a diagonal on, zeros elsewhere."""
    _check_matrix("triu", input)
    return _masked(input, ~_lower(input, diagonal - 1))


def tril_indices(row: int, col: int, offset: int = 0, *, dtype: Any = np.int64, device: Any = None) -> Any:
    """(2, count): the places of the lower triangle of a matrix, row by row."""
    return _places(row, col, lambda i, j: j - i <= offset, dtype)


def triu_indices(row: int, col: int, offset: int = 0, *, dtype: Any = np.int64, device: Any = None) -> Any:
    """(2, count): the places of the upper triangle of a matrix, row by row."""
    return _places(row, col, lambda i, j: j - i >= offset, dtype)


def _places(row: int, col: int, chosen: Any, dtype: Any) -> Any:
    if row < 0 or col < 0:
        raise ValueError(f"a matrix cannot have {row} rows and {col} columns")
    i, j = np.arange(row)[:, None], np.arange(col)
    return Tensor(np.stack(np.nonzero(chosen(i, j))).astype(dtype))


def diagonal(input: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """The diagonals of the matrices of dim1 and dim2, as a new last dimension."""
    a, b = dimension(dim1, input.ndim), dimension(dim2, input.ndim)
    if a == b:
        raise ValueError(f"diagonal: dim1 {dim1} and dim2 {dim2} must be different dimensions of shape {input.shape}")
    where = np.arange(input.array.size).reshape(input.shape)
    return take_flat(input, np.ascontiguousarray(np.diagonal(where, offset, a, b)))


def diag_embed(input: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """The last dimension as the diagonals of matrices, whose dimensions are dim1 and dim2; zeros elsewhere."""
    n, ndim = input.shape[-1] + abs(offset), input.ndim + 1
    a, b = dimension(dim1, ndim), dimension(dim2, ndim)
    if a == b:
        raise ValueError(f"diag_embed: dim1 {dim1} and dim2 {dim2} must be different")
    sizes = list(input.shape[:-1])
    for axis in sorted((a, b)):
        sizes.insert(axis, n)
    where = np.diagonal(np.arange(math.prod(sizes)).reshape(sizes), offset, a, b)
    return spread(input, np.ascontiguousarray(where), tuple(sizes))


def diag(input: Any, diagonal: int = 0) -> Any:
    """A matrix with a vector on its diagonal, or the diagonal of a matrix."""
    if input.ndim not in (1, 2):
        raise ValueError(f"diag needs a vector or a matrix, got shape {input.shape}")
    return diag_embed(input, diagonal) if input.ndim == 1 else _diagonal(input, diagonal)


_diagonal = diagonal


def diagflat(input: Any, offset: int = 0) -> Any:
    """A matrix with all elements on its diagonal."""
    return diag_embed(reshape(input, -1), offset)


@in_float32
def trace(input: Any) -> Any:
    """The sum of the diagonal of a matrix."""
    from dtrain.ops.reduction import sum

    if input.ndim != 2:
        raise ValueError(f"trace needs a matrix, got shape {input.shape}")
    return sum(diagonal(input))


def vander(x: Any, N: int | None = None, increasing: bool = False) -> Any:
    """The powers N-1 to 0 (0 to N-1 where increasing) of a vector's elements: (n, N); N is n unless given."""
    if x.ndim != 1 or N is not None and N < 0:
        raise ValueError(f"vander needs a vector and N >= 0, got shape {x.shape} and {N}")
    n = x.shape[0] if N is None else N
    return powers(x, n) if increasing else flip(powers(x, n), -1)


def powers(x: Any, n: int) -> Any:
    """The powers 0 to n - 1 of all elements, as a new last dimension."""
    from dtrain.ops.arithmetic import pow

    return pow(unsqueeze(x, -1), Tensor(np.arange(n)))


def unfold(input: Any, dimension: int, size: int, step: int) -> Any:
    """Windows of `size` elements along a dimension, `step` apart; the elements of a window are a new last dimension."""
    from dtrain.ops.dtypes import dimension as checked

    axis = checked(dimension, input.ndim)
    n = input.shape[axis] if input.ndim else 1
    if not 0 <= size <= n or step < 1:
        raise ValueError(f"unfold: size {size} must lie from 0 to {n} of shape {input.shape}, step {step} be positive")
    where = np.arange(input.array.size).reshape(input.shape or (1,))
    windows = np.lib.stride_tricks.sliding_window_view(where, size, axis) if size else where[..., None][..., :0]
    every = windows[(slice(None),) * axis + (slice(None, None, step),)]
    return take_flat(input, np.ascontiguousarray(every if input.ndim else every[0]))
