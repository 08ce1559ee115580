"""Datasets: `len(dataset)` samples, of which `dataset[i]` is one, as in PyTorch.

A dataset over arrays also has `batch(indices, context)`, which takes many samples at once. The
loader prefers it: it is some hundred times faster than one sample at a time.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtrain.autograd import Tensor
from dtrain.data.transforms import Context, Transform

__all__ = ["ArrayDataset", "Dataset", "batch_method"]


class Dataset:
    """Base of datasets: define `__len__` and `__getitem__`.

    A subclass may also define `batch(indices, context) -> arrays`, equal to collating
    `self[i] for i in indices`; `indices` may be empty, and `context` is for random transforms.
    """

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __len__(self)")

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__(self, index)")

    def __add__(self, other: Any) -> Any:
        """The samples of both, one after the other."""
        from dtrain.data.combined import ConcatDataset

        return ConcatDataset([self, other])


class ArrayDataset(Dataset):
    """Sample i is the tuple of the i-th elements of equally long NumPy arrays or Tensors.

    Elements are Tensors, single int64 numbers are ints. `transform(x, context)` is applied to
    batches of the first array (see dtrain.data.transforms).
    Raises ValueError when the lengths differ or there is no array.
    """

    def __init__(self, *arrays: Any, transform: Transform | None = None):
        if not arrays:
            raise ValueError("ArrayDataset needs at least one array")
        self.arrays = tuple(a.array if isinstance(a, Tensor) else np.asarray(a) for a in arrays)
        self.transform = transform
        shapes = [array.shape for array in self.arrays]
        if any(not shape for shape in shapes):
            raise ValueError(f"arrays need a first axis that counts samples; the shapes are {shapes}")
        if len({shape[0] for shape in shapes}) > 1:
            lengths = ", ".join(str(shape[0]) for shape in shapes)
            raise ValueError(
                f"arrays of different lengths: {lengths} samples; every array needs one element per sample"
            )

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        i = operator.index(index)
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)} samples")
        elements = (array[0] for array in self.batch(np.array([i % len(self)])))
        return tuple(int(e) if e.ndim == 0 and e.dtype == np.int64 else Tensor(np.asarray(e)) for e in elements)

    def batch(self, indices: NDArray[np.int64], context: Context | None = None) -> tuple[NDArray[Any], ...]:
        """Copies of the samples `indices`, (N,): one array of N elements for each of `self.arrays`.

        Without a context, random transforms draw as in epoch 0 of the present seed.
        """
        first, *others = (array[indices] for array in self.arrays)
        if self.transform is not None:
            first = self.transform(first, context or Context(indices))
        return (first, *others)


def batch_method(dataset: Any) -> Callable[..., tuple[Any, ...]] | None:
    """`dataset.batch`, which may be None, unless a subclass of the class that defines it has its own `__getitem__`."""
    if not isinstance(dataset, Dataset):
        return None
    for cls in type(dataset).__mro__:
        if "batch" in vars(cls):
            return dataset.batch  # type: ignore[attr-defined]
        if "__getitem__" in vars(cls):
            return None
    return None
