"""Samples into a batch: the loader's default `collate_fn`, and a batch of no samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dtrain.autograd import Tensor

__all__ = ["default_collate", "empty_like_batch"]


def default_collate(samples: Sequence[Any]) -> Any:
    """A batch of `samples`, at least one, all of the same structure.

    Arrays and Tensors are stacked along a new first axis, (...) -> (N, ...); bools, ints and floats
    become bool, int64 and float32 Tensors; tuples, lists and dicts are collated member by member;
    strings stay a list. Raises ValueError when shapes or structures differ, TypeError for other
    types.
    """
    first = samples[0]
    if isinstance(first, (Tensor, np.ndarray, np.generic)):
        return Tensor(_stack([s.array if isinstance(s, Tensor) else s for s in samples]))
    for python_type, dtype in ((bool, np.bool_), (int, np.int64), (float, np.float32)):
        if isinstance(first, python_type):
            return Tensor(np.array(samples, dtype))
    if isinstance(first, (str, bytes)):
        return list(samples)
    if isinstance(first, Mapping):
        return {name: default_collate([sample[name] for sample in samples]) for name in first}
    if isinstance(first, (tuple, list)):
        lengths = {len(sample) for sample in samples}
        if len(lengths) > 1:
            raise ValueError(f"samples have different numbers of members: {sorted(lengths)}")
        members = [default_collate(member) for member in zip(*samples, strict=True)]
        if hasattr(first, "_fields"):  # a named tuple
            return type(first)(*members)
        return type(first)(members)
    raise TypeError(
        f"cannot make a batch of {type(first).__name__} objects; samples may be arrays, Tensors, "
        "numbers, strings, and tuples, lists or dicts of these; else give the loader a collate_fn"
    )


def _stack(arrays: list[Any]) -> Any:
    shapes = {np.shape(array) for array in arrays}
    if len(shapes) > 1:
        raise ValueError(
            f"samples of different shapes cannot be stacked: {sorted(shapes)}; "
            "make them equal in the dataset, or give the loader a collate_fn that pads"
        )
    return np.stack(arrays)


def empty_like_batch(batch: Any) -> Any:
    """`batch` without its samples: every array (N, ...) becomes (0, ...), of the same dtype."""
    if isinstance(batch, Tensor):
        return Tensor(batch.array[:0])
    if isinstance(batch, Mapping):
        return {name: empty_like_batch(member) for name, member in batch.items()}
    if isinstance(batch, np.ndarray) or _is_list_of_strings(batch):
        return batch[:0]
    if isinstance(batch, (tuple, list)):
        members = [empty_like_batch(member) for member in batch]
        return type(batch)(*members) if hasattr(batch, "_fields") else type(batch)(members)
    return batch


def _is_list_of_strings(batch: Any) -> bool:
    return isinstance(batch, list) and all(isinstance(member, (str, bytes)) for member in batch)
