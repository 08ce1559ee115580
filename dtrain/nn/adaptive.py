"""Softmax over many classes, the rare ones in clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dtrain.autograd import Tensor
from dtrain.nn.containers import ModuleList, Sequential
from dtrain.nn.linear import Linear
from dtrain.nn.module import Module
from dtrain.ops.activation import log_softmax
from dtrain.ops.indexing import gather
from dtrain.ops.positions import rows
from dtrain.ops.shape import cat

__all__ = ["AdaptiveLogSoftmaxWithLoss"]


class _ASMoutput(NamedTuple):
    """output: (N,), log-probabilities of the targets; loss: minus their mean."""

    output: Tensor
    loss: Tensor


class AdaptiveLogSoftmaxWithLoss(Module):
    """Log-probabilities of target classes, and the loss.  (N, in_features), (N,) of ints -> output (N,), loss ()

    Classes are sorted by frequency, the most frequent first. The head gives scores to the first cutoffs[0] of them and
    to each cluster [cutoffs[i], cutoffs[i + 1]); within its cluster a class has scores of its own, made from a
    projection to in_features // div_value^(i + 1) numbers. Without a batch (in_features,) and () -> () (Grave et al.,
    arXiv:1609.04309). Raises ValueError for cutoffs that are not increasing whole numbers in [1, n_classes - 1] and
    inputs that do not fit, IndexError for targets out of range (of which PyTorch's is a RuntimeError).
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        given = list(cutoffs)
        if not given:
            raise ValueError("AdaptiveLogSoftmaxWithLoss needs at least one cutoff")
        increasing = given == sorted(set(given)) and all(int(c) == c for c in given)
        if not increasing or given[0] <= 0 or given[-1] > n_classes - 1:
            raise ValueError(f"cutoffs must be increasing whole numbers from 1 to {n_classes - 1}, got {given}")
        self.in_features, self.n_classes, self.div_value, self.head_bias = in_features, n_classes, div_value, head_bias
        self.cutoffs = [*given, n_classes]
        self.shortlist_size = given[0]
        self.n_clusters = len(given)
        self.head_size = self.shortlist_size + self.n_clusters
        made = {"device": device, "dtype": dtype}
        self.head = Linear(in_features, self.head_size, bias=head_bias, **made)
        self.tail = ModuleList()
        for i in range(self.n_clusters):
            width = int(in_features // div_value ** (i + 1))
            size = self.cutoffs[i + 1] - self.cutoffs[i]
            self.tail.append(
                Sequential(Linear(in_features, width, bias=False, **made), Linear(width, size, bias=False, **made))
            )

    def reset_parameters(self) -> None:
        """Draw the initial weights again."""
        self.head.reset_parameters()
        for project, score in self.tail:
            project.reset_parameters()
            score.reset_parameters()

    def forward(self, input: Tensor, target: Tensor) -> _ASMoutput:  # noqa: A002
        if target.ndim > 1 or input.ndim != target.ndim + 1 or input.shape[:-1] != target.shape:
            raise ValueError(
                "AdaptiveLogSoftmaxWithLoss takes an input (N, in_features) and targets (N,), or one of each without "
                f"N; got shapes {input.shape} and {target.shape}"
            )
        x, classes = input.reshape(-1, input.shape[-1]), target.array.reshape(-1)
        if classes.size and (classes.min() < 0 or classes.max() >= self.n_classes):
            raise IndexError(
                f"targets must be from 0 to {self.n_classes - 1}, got {int(classes.min())} to {int(classes.max())}"
            )
        head = log_softmax(self.head(x), 1)
        cluster = np.searchsorted(np.array(self.cutoffs), classes, side="right")  # 0: in the head
        order = [np.flatnonzero(cluster == i) for i in range(self.n_clusters + 1)]
        parts = []
        for i, places in enumerate(order):
            if not len(places):
                continue
            column = classes[places] if i == 0 else np.full(len(places), self.shortlist_size + i - 1)
            found = gather(rows(head, places, 0), 1, Tensor(column[:, None].astype(np.int64)))
            if i:
                within = (classes[places] - self.cutoffs[i - 1])[:, None].astype(np.int64)
                scores = log_softmax(self.tail[i - 1](rows(x, places, 0)), 1)
                found = found + gather(scores, 1, Tensor(within))
            parts.append(found[:, 0])
        # Without samples there are no parts: (0,).
        output = rows(cat(parts), np.argsort(np.concatenate(order), kind="stable"), 0) if parts else head.sum(1)
        loss = (-output).mean()
        return _ASMoutput(output.reshape(target.shape), loss)

    def log_prob(self, input: Tensor) -> Tensor:  # noqa: A002
        """Log-probabilities of all classes.  (N, in_features) -> (N, n_classes)"""
        return self._all(input, log_softmax(self.head(input), 1))

    def _all(self, x: Tensor, head: Tensor) -> Tensor:
        """The log-probabilities of all classes, from those of the head."""
        first = self.shortlist_size
        parts = [head[:, :first]]
        for i, tail in enumerate(self.tail):
            parts.append(log_softmax(tail(x), 1) + head[:, first + i : first + i + 1])
        return cat(parts, 1)

    def predict(self, input: Tensor) -> Tensor:  # noqa: A002
        """The most probable class of each sample, by `log_prob`.  (N, in_features) -> (N,) of int64

        Only the samples whose most probable entry of the head is a cluster are looked for in the clusters, as in
        PyTorch.
        """
        head = self.head(input)
        found = head.argmax(1).array.astype(np.int64)
        rest = np.flatnonzero(found >= self.shortlist_size)
        if len(rest):
            found[rest] = self._all(rows(input, rest, 0), log_softmax(rows(head, rest, 0), 1)).argmax(1).array
        return Tensor(found)
