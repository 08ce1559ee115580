"""Sums, means and maxima of vectors that are looked up in a table, bag by bag."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.autograd import Tensor
from dtrain.ops.embedding import check_table, renormalise, scaled_by_frequency
from dtrain.ops.positions import rows, spread_rows, take_flat

__all__ = ["embedding_bag"]


def embedding_bag(
    input: Any,  # noqa: A002
    weight: Any,
    offsets: Any = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    """The sum, mean or max (mode) of the rows weight[input] in each bag. -> (bags, D); weight: (V, D)

    input: (bags, n), or (N,) with offsets, (bags,): where each bag begins; with include_last_offset they have one more,
    where the last one ends. An empty bag gives zeros. per_sample_weights: of input's shape, factors in a sum.
    padding_idx: a row that is not counted. max_norm, norm_type, scale_grad_by_freq and sparse as in `embedding`.
    Raises ValueError, TypeError or IndexError for shapes, dtypes and offsets that do not fit, NotImplementedError for
    per_sample_weights with another mode.
    """
    padding = check_table("embedding_bag", input, weight, padding_idx)
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"embedding_bag: mode must be 'sum', 'mean' or 'max', got {mode!r}")
    if mode == "max" and scale_grad_by_freq:
        raise ValueError("embedding_bag: scale_grad_by_freq does not go with mode 'max'; use 'sum' or 'mean'")
    bag, bags = _bags(input, offsets, include_last_offset)
    factors = _factors(input, weight, mode, per_sample_weights)
    if max_norm is not None:
        renormalise("embedding_bag", input, weight, max_norm, norm_type)
    index = input.array.reshape(-1)
    counted = bag >= 0
    if padding is not None:
        counted &= index != padding
    places = np.flatnonzero(counted)
    index, bag = index[places], bag[places]
    found = rows(weight, index, 0)
    if scale_grad_by_freq:
        found = scaled_by_frequency(found, index, len(weight))
    if factors is not None:
        found = found * rows(factors, places, 0).reshape(-1, 1)
    if mode == "max":
        return _maxima(found, bag, bags)
    total = spread_rows(found, bag, 0, bags)
    if mode == "sum":
        return total
    counts = np.maximum(np.bincount(bag, minlength=bags), 1)
    return total / Tensor(counts[:, None].astype(weight.dtype))


def _bags(input: Any, offsets: Any, include_last: bool) -> tuple[np.ndarray, int]:  # noqa: A002
    """The bag of each element of input, -1 for none; and the number of bags."""
    if input.ndim == 2:
        if offsets is not None:
            raise ValueError(
                f"embedding_bag: offsets go with an input of one dimension; input has shape {input.shape}, each row of "
                f"which is a bag, and offsets have shape {offsets.shape}"
            )
        return np.repeat(np.arange(len(input)), input.shape[1]), len(input)
    if input.ndim != 1 or offsets is None or offsets.ndim != 1:
        given = None if offsets is None else offsets.shape
        raise ValueError(
            "embedding_bag needs an input of 2 dimensions, or one of 1 dimension and offsets of 1 dimension; got "
            f"shapes {input.shape} and {given}"
        )
    starts, n = offsets.array, len(input)
    if starts.dtype.kind not in "iu":
        raise TypeError(f"embedding_bag needs offsets of an integer dtype, got {starts.dtype}")
    if include_last and not len(starts):
        raise ValueError("embedding_bag: with include_last_offset there is at least one offset, got shape (0,)")
    if len(starts) and (starts[0] != 0 or starts[-1] > n or (np.diff(starts) < 0).any()):
        raise ValueError(
            f"embedding_bag: offsets must begin with 0, not decrease, and not exceed {n}, the length of the input; got "
            f"{starts.tolist()}"
        )
    bag = np.searchsorted(starts, np.arange(n), side="right") - 1
    bags = len(starts) - include_last
    return np.where(bag < bags, bag, -1), bags


def _factors(input: Any, weight: Any, mode: str, factors: Any) -> Any:  # noqa: A002
    """per_sample_weights, (N,), or None."""
    if factors is None:
        return None
    if mode != "sum":
        raise NotImplementedError(f"embedding_bag: per_sample_weights go with mode 'sum' only, got {mode!r}")
    if factors.shape != input.shape:
        raise ValueError(
            f"embedding_bag: per_sample_weights have shape {factors.shape}, the input {input.shape}; they must agree"
        )
    if factors.dtype != weight.dtype:
        raise TypeError(f"embedding_bag: per_sample_weights are {factors.dtype}, the weight is {weight.dtype}")
    return factors.reshape(-1)


def _maxima(found: Tensor, bag: np.ndarray, bags: int) -> Tensor:
    """The maxima by element over each bag, zero for an empty one; of equal elements the first gets the gradient."""
    n, width = found.shape
    if not n or not width:
        return spread_rows(found, bag, 0, bags)
    full, starts = np.unique(bag, return_index=True)  # bags are in ascending order
    array = found.array
    lines = np.repeat(np.arange(len(full)), np.diff([*starts, n]))
    largest = np.maximum.reduceat(array, starts, 0)[lines]
    place = np.where((array == largest) | np.isnan(array), np.arange(n)[:, None], n)
    first = np.minimum.reduceat(place, starts, 0)
    return spread_rows(take_flat(found, first * width + np.arange(width)), full, 0, bags)
