"""Datasets made of tensors or of other datasets: `torch.utils.data`'s."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtrain.backend.random import Purpose, key, stream
from dtrain.data.dataset import ArrayDataset, Dataset, batch_method
from dtrain.data.transforms import Context

__all__ = ["ConcatDataset", "Subset", "TensorDataset", "random_split"]


class TensorDataset(ArrayDataset):
    """Sample i is the tuple of the i-th elements of Tensors of equal length, which are Tensors.

    Raises ValueError when the lengths differ or there is no tensor.
    """

    batch = ArrayDataset.batch

    def __init__(self, *tensors: Any) -> None:
        super().__init__(*tensors)
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        return tuple(tensor[index] for tensor in self.tensors)


class Subset(Dataset):
    """The samples `indices` of a dataset, in that order."""

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    @property
    def batch(self) -> Callable[..., tuple[Any, ...]] | None:
        """Takes many samples at once, where the dataset can. Random transforms draw by its numbers."""
        take, numbers = batch_method(self.dataset), np.asarray(self.indices, np.int64)
        if take is None:
            return None

        def taken(indices: NDArray[np.int64], context: Context | None = None) -> tuple[Any, ...]:
            samples = numbers[indices]
            return take(samples, context and Context(samples, context.epoch, context.seed))

        return taken

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, list):
            return self.dataset[[self.indices[i] for i in index]]
        return self.dataset[self.indices[index]]


class ConcatDataset(Dataset):
    """The samples of several datasets, one after the other; also `a + b`. Raises ValueError for none at all."""

    def __init__(self, datasets: Sequence[Any]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset needs at least one dataset")
        #: How many samples there are up to the end of each dataset.
        self.cumulative_sizes = list(accumulate(map(len, self.datasets)))

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} samples")
        index %= len(self)
        which = bisect_right(self.cumulative_sizes, index)
        return self.datasets[which][index - (self.cumulative_sizes[which - 1] if which else 0)]


def random_split(dataset: Any, lengths: Sequence[float], generator: Any = None) -> list[Subset]:
    """Subsets of these lengths, of samples drawn without repetition; together they are the dataset.

    lengths: whole numbers whose sum is len(dataset), or fractions whose sum is 1: of each the floor, and what is left
    goes to the first ones, one by one. generator: a `dtrain.Generator`; without it, the split is a function of the seed
    of `dtrain.manual_seed`, the same on all ranks. Raises ValueError for lengths that do not add up.
    """
    n = len(dataset)
    if all(0 <= length <= 1 for length in lengths) and math.isclose(sum(lengths), 1):
        sizes = [math.floor(n * length) for length in lengths]
        for i in range(n - sum(sizes)):
            sizes[i % len(sizes)] += 1
    else:
        sizes = [int(length) for length in lengths]
    if sum(sizes) != n or min(sizes) < 0:
        raise ValueError(
            f"random_split: lengths {list(lengths)} of {n} samples; their sum must be {n}, or 1 if they are fractions"
        )
    draw = stream(key.seed, Purpose.SHUFFLE, -1) if generator is None else generator
    order = draw.permutation(n).tolist()
    return [Subset(dataset, order[a:b]) for a, b in pairwise([0, *accumulate(sizes)])]
