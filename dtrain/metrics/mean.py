"""Means of numbers, and the perplexity of predictions, which is the exponential of one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtrain.comm import Communicator
from dtrain.metrics.classification import check_target
from dtrain.metrics.exact import SIZE, exact_ratio, exact_sum, exact_value
from dtrain.metrics.metric import Counts, Metric, values_of

__all__ = ["Mean", "Perplexity"]

CELLS = 1 << 20  # scores converted to float64 at a time


class Mean(Metric):
    """sum(weight * value) / sum(weight), both sums exact, the result rounded once.

        loss = metrics.Mean(comm=job.comm)
        loss.update(F.cross_entropy(model(x), y).item(), weight=len(y))

    comm: the ranks that the mean is over; without it, this process alone.
    """

    def __init__(self, *, comm: Communicator | None = None) -> None:
        super().__init__(comm, (2, SIZE))

    def _count(self, value: Any, weight: Any = 1.0) -> Counts:
        """value: numbers of any shape; weight: one for each, or fewer that broadcast to them, at least 0 (default 1).

        Raises ValueError for weights below 0 or of another shape, TypeError for what is not a real number. NaN and
        infinities are summed like all others, and show in the mean.
        """
        values, weights = _real("value", value), _real("weight", weight)
        try:
            weights = np.broadcast_to(weights, values.shape)
        except ValueError:
            raise ValueError(
                f"weight has shape {weights.shape}, value {values.shape}: give one weight, or one for each value"
            ) from None
        if not (weights >= 0).all():
            raise ValueError(f"weights must be at least 0, got {weights[~(weights >= 0)].flat[0]}")
        weighted = weights > 0  # a value that does not count may be anything
        with np.errstate(over="ignore"):
            products = values[weighted] * weights[weighted]
        return np.stack([exact_sum(products), exact_sum(weights)])

    def _value(self, counts: Counts) -> float:
        return exact_ratio(counts[0], exact_value(counts[1]))


class Perplexity(Metric):
    """exp(-mean(log p)), where p is the probability that a model gives to the right token: softmax(scores)[target].

    ignore_index: tokens with this target do not count (padding); by default all count.
    comm: the ranks that the mean is over; without it, this process alone.

    Log-probabilities are computed in float64, token by token, and their sum over all tokens is exact.
    """

    def __init__(self, ignore_index: int | None = None, *, comm: Communicator | None = None) -> None:
        super().__init__(comm, (SIZE + 1,), ignore_index=ignore_index)
        self.ignore_index = ignore_index

    def _count(self, preds: Any, target: Any) -> Counts:
        """preds: (..., V), scores of V tokens (logits); target: (...), whole numbers from 0 to V - 1.

        Raises ValueError for shapes that do not go together, targets out of range and scores that are NaN or inf,
        TypeError for scores that are not floating-point or targets that are not whole numbers.
        """
        scores, target = values_of(preds), values_of(target)
        if scores.ndim == 0 or scores.shape[:-1] != target.shape:
            raise ValueError(
                f"preds have shape {scores.shape}, target {target.shape}: expected (..., V) and (...), the scores of V "
                "tokens in the last axis"
            )
        if scores.dtype.kind != "f":
            raise TypeError(f"preds must be scores in a floating-point dtype, got {scores.dtype}")
        kept = check_target(target, scores.shape[-1], self.ignore_index)
        rows, target = scores.reshape(-1, scores.shape[-1]), target.reshape(-1)
        chosen = np.flatnonzero(kept)
        step = max(1, CELLS // scores.shape[-1])
        counts = np.zeros(SIZE + 1, np.int64)
        for start in range(0, chosen.size, step):
            part = chosen[start : start + step]
            counts[:SIZE] += exact_sum(_log_loss(rows[part], target[part]))
        counts[SIZE] = chosen.size
        return counts

    def _value(self, counts: Counts) -> float:
        mean = exact_ratio(counts[:SIZE], int(counts[SIZE]))
        try:
            return math.exp(mean)
        except OverflowError:
            return math.inf


def _log_loss(rows: NDArray[Any], target: NDArray[Any]) -> NDArray[np.float64]:
    """-log(softmax(rows)[target]): (N, V), (N,) -> (N,)."""
    x = np.ascontiguousarray(rows, np.float64)
    if not np.isfinite(x).all():
        raise ValueError(f"preds have the score {x[~np.isfinite(x)][0]}: perplexity needs finite ones")
    top = x.max(axis=1)
    own = x[np.arange(len(x)), target]
    return np.log(np.exp(x - top[:, None]).sum(axis=1)) + (top - own)


def _real(name: str, value: Any) -> NDArray[np.float64]:
    """The numbers as float64. Raises TypeError for others."""
    array = values_of(value)
    if array.dtype.kind not in "bfiu":
        raise TypeError(f"{name} must be real numbers, got {array.dtype} from a {type(value).__name__}")
    return array.astype(np.float64)
