"""Look-up in a table of vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.autograd import Into, Tensor, as_one_call, mark_written, op
from dtrain.backend import Array, backend_of, capture, xp_of
from dtrain.ops import arithmetic
from dtrain.ops.positions import rows as rows_of

__all__ = ["check_table", "embedding", "renormalise", "scaled_by_frequency"]


def embedding(
    input: Any,  # noqa: A002
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    """weight[input]. input: (...) of row numbers, weight: (V, D) -> (..., D)

    padding_idx: a row that gets no gradient; from the end where negative. max_norm: rows that are looked up and have a
    larger norm (the norm_type-norm) are first scaled to it, in the weight itself. scale_grad_by_freq: the gradient of a
    row is divided by the number of times that input has it. sparse changes nothing: gradients are dense. Raises
    IndexError for a row outside [0, V), TypeError for numbers that are no integers, ValueError for a weight that is
    not a matrix or a padding_idx out of range, RuntimeError for max_norm under DistributedDataParallel.
    """
    padding = check_table("embedding", input, weight, padding_idx)
    if max_norm is not None:
        renormalise("embedding", input, weight, max_norm, norm_type)
    return _embedding(input, weight, padding, scale_grad_by_freq)


def check_table(name: str, input: Any, weight: Any, padding_idx: int | None) -> int | None:  # noqa: A002
    """Raise where `input` are not rows of `weight`; return padding_idx counted from the first row."""
    index = input.array
    if weight.ndim != 2:
        raise ValueError(f"{name} needs a weight of 2 dimensions, (rows, size of a vector), got shape {weight.shape}")
    if index.dtype.kind not in "iu":
        raise TypeError(f"{name} needs row numbers of an integer dtype, got {index.dtype}")
    n = len(weight)
    if index.size and capture.present() is None:  # in a graph nobody can look; kernels leave out what lies outside
        _check_rows(name, index, n)
    if padding_idx is not None and not -n <= padding_idx < n:
        raise ValueError(f"{name}: padding_idx {padding_idx} is no row of a table of {n}")
    return None if padding_idx is None else padding_idx % n


@as_one_call
def _check_rows(name: str, index: Array, n: int) -> None:
    if index.min() < 0 or index.max() >= n:
        wrong = index[(index < 0) | (index >= n)].ravel()[0]
        raise IndexError(f"{name}: row {int(wrong)} is out of range for a table of {n} rows")


def renormalise(name: str, input: Any, weight: Any, max_norm: float, norm_type: float) -> None:  # noqa: A002
    """Scale the rows of weight at `input` whose norm is above max_norm to it, in place."""
    if weight._sink is not None:
        raise RuntimeError(
            f"{name}: max_norm={max_norm} changes the rows of the weight, of shape {weight.shape}, that a microbatch "
            "looks up, and ranks look up different ones: it cannot be used under DistributedDataParallel; scale all "
            "rows after optimizer.step() instead, under dtrain.no_grad()"
        )
    array, xp = weight.array, xp_of(weight.array)
    found = xp.unique(input.array)
    norms = xp.linalg.norm(array[found], norm_type, 1)
    above = norms > max_norm
    if above.any():
        array[found[above]] *= (max_norm / (norms[above] + 1e-7))[:, None].astype(array.dtype)
        mark_written(array)


def _factors(index: Array, n: int) -> Array:
    """1 / how often its row is in index, for each place of it."""
    return 1 / np.bincount(index.reshape(-1), minlength=n)[index]


def scaled_by_frequency(looked_up: Tensor, index: Array, n: int) -> Tensor:
    """looked_up, (*index.shape, D), with a gradient that is divided by how often a place's row is in index."""
    factor = Tensor(_factors(index, n)[..., None].astype(looked_up.dtype))
    return looked_up * factor + looked_up.detach() * (1 - factor)


@op
def _embedding(input: Any, weight: Any, padding_idx: int | None, by_frequency: bool) -> Any:  # noqa: A002
    index, n = input, len(weight)

    def pullback(g: Array, out: Array | None) -> Array:
        if by_frequency:
            g = g * _factors(index, n)[..., None].astype(g.dtype)
        gw = backend_of(weight).embedding_grad(g.reshape(-1, weight.shape[1]), index.reshape(-1), n, out)
        if padding_idx is not None:
            gw[padding_idx] = 0
        return gw

    return weight[index], (None, Into(pullback))


@_embedding.formula
def _(input: Any, weight: Any, padding_idx: int | None, by_frequency: bool) -> Any:  # noqa: A002
    index = input.array
    found = rows_of(weight, index.reshape(-1), 0).reshape(*index.shape, weight.shape[1])
    if by_frequency:
        found = scaled_by_frequency(found, index, len(weight))
    if padding_idx is not None:
        found = arithmetic.where(Tensor((index == padding_idx)[..., None]), found.detach(), found)
    return found
