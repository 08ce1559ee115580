"""Parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable

from dtrain.autograd import Tensor
from dtrain.ops.shape import cat

__all__ = ["parameters_to_vector", "vector_to_parameters"]


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """The elements of all parameters, one after the other.  -> (n,)"""
    return cat([p.reshape(-1) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Copy the elements of a vector into parameters, one after the other. vec: (n,)

    Raises TypeError for what is no Tensor, ValueError for one of another shape or with too few elements.
    """
    if not isinstance(vec, Tensor):
        raise TypeError(f"vector_to_parameters takes a Tensor, got {type(vec).__name__}")
    given = list(parameters)
    n = sum(p.numel() for p in given)
    if vec.ndim != 1 or vec.numel() < n:
        raise ValueError(f"vector_to_parameters needs a vector of {n} elements, got shape {vec.shape}")
    start = 0
    for p in given:
        p.data = Tensor(vec.array[start : start + p.numel()].reshape(p.shape).astype(p.dtype))
        start += p.numel()
