"""Accuracy and the confusion matrix: counts of samples by class."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtrain.comm import Communicator
from dtrain.metrics.metric import Counts, Metric, values_of

__all__ = ["Accuracy", "ConfusionMatrix", "TopKAccuracy", "check_target"]

AVERAGES = ("micro", "macro", "none")
NORMALIZE = ("true", "pred", "all")


class Accuracy(Metric):
    """The share of samples whose class is among the top_k best-scored ones: correct / counted.

        accuracy = metrics.Accuracy(comm=job.comm)
        accuracy.update(model(x), y)

    Args:
        num_classes: C; needed for averages over classes. Where it is given, predictions must have it.
        top_k: how many of the best classes may hold the right one (default 1). Of equal scores the lower class
            comes first, as in argmax.
        average: "micro" counts samples; "macro" is the mean of each class's share, over the classes that occur, so
            that rare ones count like frequent ones; "none" gives these shares, (C,), NaN where a class does not occur.
        ignore_index: samples with this target do not count.
        threshold: predictions of the target's shape that are floating-point count as class 1 where they are above it.
        comm: the ranks that the value is over; without it, this process alone.

    update(preds, target): preds (N, C, ...), scores of classes, and target (N, ...), whole numbers from 0 to C - 1; or
    both of one shape: predicted classes, or scores of class 1. It raises ValueError for shapes that do not go
    together, classes out of range and scores that are NaN, TypeError for dtypes that are no classes or scores.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        top_k: int = 1,
        average: str = "micro",
        ignore_index: int | None = None,
        threshold: float = 0.5,
        *,
        comm: Communicator | None = None,
    ) -> None:
        if average not in AVERAGES:
            raise ValueError(f"average {average!r} is unknown; use one of {', '.join(AVERAGES)}")
        if average != "micro" and num_classes is None:
            raise ValueError(f"average {average!r} needs num_classes")
        if top_k < 1 or top_k > (num_classes or top_k):
            raise ValueError(f"top_k must be at least 1 and at most num_classes, {num_classes}; got {top_k}")
        _check_num_classes(num_classes)
        self.num_classes, self.top_k, self.average = num_classes, top_k, average
        self.ignore_index, self.threshold = ignore_index, threshold
        classes = 1 if average == "micro" else num_classes or 1
        super().__init__(
            comm, (2, classes),
            num_classes=num_classes, top_k=top_k, average=average, ignore_index=ignore_index, threshold=threshold,
        )  # fmt: skip

    def _count(self, preds: Any, target: Any) -> Counts:
        """Right and counted samples, of all classes together or of each: (2, 1) or (2, C)."""
        scores, labels, target = _samples(preds, target, self.num_classes, self.ignore_index, self.threshold)
        if scores is None:
            if self.top_k > 1:
                raise ValueError(f"top_k={self.top_k} needs scores of classes, preds have the target's shape")
            right = labels == target
        elif self.top_k > scores.shape[1]:
            raise ValueError(f"top_k={self.top_k} of {scores.shape[1]} classes: use at most {scores.shape[1]}")
        else:
            right = _place(scores, target) < self.top_k
        if self.average == "micro":
            return np.array([[np.count_nonzero(right)], [right.size]], np.int64)
        classes = self._counts.shape[1]
        return np.stack([np.bincount(target[right], minlength=classes), np.bincount(target, minlength=classes)])

    def _value(self, counts: Counts) -> Any:
        right, counted = counts
        if not counted.any():
            raise ZeroDivisionError
        with np.errstate(invalid="ignore"):
            shares = right / counted
        if self.average == "micro":
            return shares[0]
        return shares[counted > 0].mean() if self.average == "macro" else shares


class TopKAccuracy(Accuracy):
    """The share of samples whose class is among the k best-scored ones: `Accuracy(top_k=k)`.

    k: 5 by default. Other arguments, what `update` takes and what raises: as for `Accuracy`.
    """

    def __init__(self, k: int = 5, num_classes: int | None = None, **options: Any) -> None:
        super().__init__(num_classes, k, **options)


class ConfusionMatrix(Metric):
    """How often class j was predicted where class i was right: element (i, j) of a (num_classes, num_classes) matrix.

    Args:
        num_classes: C, at least 2.
        normalize: None gives counts, int64. "true" divides each row by its sum, "pred" each column, "all" by the
            number of samples; what would be divided by zero is zero. float64.
        ignore_index: samples with this target do not count.
        threshold: as for `Accuracy`.
        comm: the ranks that the value is over; without it, this process alone.

    update(preds, target): as for `Accuracy`; of scores the highest counts, the lower class of equal ones.
    Raises ValueError for fewer classes, and for another `normalize`.
    """

    def __init__(
        self,
        num_classes: int,
        normalize: str | None = None,
        ignore_index: int | None = None,
        threshold: float = 0.5,
        *,
        comm: Communicator | None = None,
    ) -> None:
        if normalize is not None and normalize not in NORMALIZE:
            raise ValueError(f"normalize {normalize!r} is unknown; use None or one of {', '.join(NORMALIZE)}")
        _check_num_classes(num_classes)
        self.num_classes, self.normalize = num_classes, normalize
        self.ignore_index, self.threshold = ignore_index, threshold
        super().__init__(
            comm, (num_classes, num_classes),
            num_classes=num_classes, normalize=normalize, ignore_index=ignore_index, threshold=threshold,
        )  # fmt: skip

    def _count(self, preds: Any, target: Any) -> Counts:
        """The matrix of these samples."""
        scores, labels, target = _samples(preds, target, self.num_classes, self.ignore_index, self.threshold)
        labels = labels if scores is None else scores.argmax(axis=1)
        n = self.num_classes
        return np.bincount(target.astype(np.int64) * n + labels, minlength=n * n).reshape(n, n)

    def _value(self, counts: Counts) -> NDArray[Any]:
        if not counts.any():
            raise ZeroDivisionError
        if self.normalize is None:
            return counts
        axis = {"true": 1, "pred": 0, "all": None}[self.normalize]
        return counts / np.maximum(counts.sum(axis=axis, keepdims=True), 1)


def _check_num_classes(num_classes: int | None) -> None:
    if num_classes is not None and num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")


def _place(scores: NDArray[Any], target: NDArray[Any]) -> NDArray[np.int64]:
    """How many classes come before the right one, best first, lower ones first of equal ones: (N, C), (N,) -> (N,)."""
    own = scores[np.arange(len(target)), target][:, None]
    lower = np.arange(scores.shape[1]) < target[:, None]
    return np.count_nonzero((scores > own) | ((scores == own) & lower), axis=1)


def _samples(
    preds: Any, target: Any, num_classes: int | None, ignore_index: int | None, threshold: float
) -> tuple[Any, Any, NDArray[Any]]:
    """(scores (N, C) or None, predicted classes (N,) or None, targets (N,)) of the samples that count."""
    p, t = values_of(preds), values_of(target)
    if p.shape == t.shape and p.dtype.kind in "biuf":
        if p.dtype.kind == "f":
            _check_nan(p)
            p = p > threshold
        kept = check_target(t, num_classes, ignore_index)
        labels = p.reshape(-1)[kept].astype(np.int64)
        _check_range("preds", labels, num_classes)
        return None, labels, t.reshape(-1)[kept].astype(np.int64)
    axis = 1 if p.ndim > 1 else 0
    if p.ndim != t.ndim + 1 or p.shape[:axis] + p.shape[axis + 1 :] != t.shape:
        raise ValueError(
            f"preds have shape {p.shape}, target {t.shape}: expected (N, C, ...) and (N, ...), scores of C classes "
            "in the second axis, or predicted classes of the target's shape"
        )
    if p.dtype.kind != "f":
        raise TypeError(f"preds of shape {p.shape} must be scores in a floating-point dtype, got {p.dtype}")
    if num_classes is not None and p.shape[axis] != num_classes:
        raise ValueError(f"preds of shape {p.shape} have {p.shape[axis]} classes, num_classes is {num_classes}")
    kept = check_target(t, p.shape[axis], ignore_index)
    scores = np.moveaxis(p, axis, -1).reshape(-1, p.shape[axis])[kept]
    _check_nan(scores)
    return scores, None, t.reshape(-1)[kept].astype(np.int64)


def _check_nan(scores: NDArray[Any]) -> None:
    bad = np.count_nonzero(np.isnan(scores))
    if bad:
        raise ValueError(f"{bad} of {scores.size} scores in preds are NaN: there is no best class")


def _check_range(name: str, labels: NDArray[Any], num_classes: int | None) -> None:
    wrong = labels < 0 if num_classes is None else (labels < 0) | (labels >= num_classes)
    if wrong.any():
        upto = "0" if num_classes is None else f"0 to {num_classes - 1}"
        raise ValueError(
            f"{name} have class {labels[wrong][0]} ({np.count_nonzero(wrong)} of {labels.size} are out of range): "
            f"classes are numbered from {upto}; ignore_index leaves a target out"
        )


def check_target(target: NDArray[Any], num_classes: int | None, ignore_index: int | None) -> NDArray[np.bool_]:
    """Which of the targets, read in C order, count: those that are not ignore_index.

    Raises TypeError unless they are whole numbers, ValueError for those that count and are no class.
    """
    if target.dtype.kind not in "biu":
        raise TypeError(f"target must be classes in a dtype of whole numbers, got {target.dtype}")
    flat = target.reshape(-1)
    kept = np.ones(flat.size, bool) if ignore_index is None else flat != ignore_index
    _check_range("targets", flat[kept], num_classes)
    return kept
