"""Samplers: which samples an epoch takes, and in which order, where that is not all of them: `torch.utils.data`'s.

What a sampler draws is a function of a seed and the epoch, which the loader sets: so it is the same on all ranks, and
when a run is resumed in the middle of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtrain.backend.random import Purpose, key, stream

__all__ = ["RandomSampler", "Sampler", "SequentialSampler", "SubsetRandomSampler", "WeightedRandomSampler"]


class Sampler:
    """Base of samplers: define `__len__`, and `__iter__`, which gives the numbers of an epoch's samples.

    A sampler that draws numbers takes them from `draw()`, or defines `set_epoch(epoch)` itself; else every epoch,
    and every rank, must get the same from it.
    """

    #: The epoch that `__iter__` is for.
    epoch = 0
    _seed: int | None = None

    def __init__(self, data_source: Any = None) -> None:
        self.data_source = data_source

    def set_epoch(self, epoch: int) -> None:
        """The next `iter` is for this epoch; called by the loader."""
        self.epoch = epoch

    def draw(self, generator: Any = None) -> np.random.Generator:
        """The generator for this epoch. generator: a `dtrain.Generator`, of which a seed is drawn the first time;
        without it, the seed is that of `dtrain.manual_seed`."""
        if self._seed is None:
            self._seed = key.seed if generator is None else int(generator.integers(1 << 63))
        return stream(self._seed, Purpose.SHUFFLE, self.epoch, 1)

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __len__(self)")

    def __iter__(self) -> Iterator[int]:
        raise NotImplementedError(f"{type(self).__name__} must define __iter__(self)")


class SequentialSampler(Sampler):
    """0, 1, 2, ..."""

    def __len__(self) -> int:
        return len(self.data_source)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))


class RandomSampler(Sampler):
    """num_samples of a dataset's samples (default: as many as it has), with replacement or without.

    Without replacement each comes once before any comes twice. Raises ValueError for num_samples below 1.
    """

    def __init__(
        self, data_source: Any, replacement: bool = False, num_samples: int | None = None, generator: Any = None
    ) -> None:
        super().__init__(data_source)
        self.replacement, self.generator = replacement, generator
        self.num_samples = _count(len(data_source) if num_samples is None else num_samples)

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        n, draw = len(self.data_source), self.draw(self.generator)
        if self.replacement:
            return iter(draw.integers(n, size=len(self)).tolist())
        rounds = [draw.permutation(n) for _ in range(-(-len(self) // n))]
        return iter(np.concatenate(rounds)[: len(self)].tolist())


class SubsetRandomSampler(Sampler):
    """The numbers `indices` in random order."""

    def __init__(self, indices: Sequence[int], generator: Any = None) -> None:
        super().__init__()
        self.indices, self.generator = indices, generator

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return (int(self.indices[i]) for i in self.draw(self.generator).permutation(len(self)))


class WeightedRandomSampler(Sampler):
    """num_samples numbers below len(weights), number i with probability weights[i] / sum of the weights.

    weights: (n,). Without replacement no number comes twice: those with the largest weight / e, where e are draws from
    the exponential distribution (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006).
    Raises ValueError for weights that are no probabilities, and where there are not enough of them to draw from.
    """

    def __init__(
        self, weights: Sequence[float], num_samples: int, replacement: bool = True, generator: Any = None
    ) -> None:
        super().__init__()
        self.weights: NDArray[np.float64] = np.asarray(getattr(weights, "array", weights), np.float64)
        self.num_samples, self.replacement, self.generator = _count(num_samples), replacement, generator
        w = self.weights
        if w.ndim != 1 or not (np.isfinite(w) & (w >= 0)).all() or not w.sum() > 0:
            raise ValueError(f"weights must be finite, not negative, of shape (n,), and one above 0; got {weights!r}")
        if not replacement and num_samples > np.count_nonzero(w):
            raise ValueError(
                f"{num_samples} samples without replacement, but {np.count_nonzero(w)} weights are above 0; "
                "draw fewer, or with replacement=True"
            )

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        draw, w = self.draw(self.generator), self.weights
        if self.replacement:
            ends = np.cumsum(w)
            # A draw is below the last end, and a number of weight 0 ends where it begins.
            found = np.searchsorted(ends / ends[-1], draw.random(len(self)), side="right")
        else:
            found = np.argsort(-w / draw.exponential(size=len(w)), kind="stable")[: len(self)]
        return iter(found.tolist())


def _count(num_samples: int) -> int:
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    return num_samples
