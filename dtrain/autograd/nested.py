"""Tensors in tuples, lists and dicts: what models and steps are called with, and batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dtrain.autograd.tensor import Tensor

__all__ = ["map_tensors"]


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """`value` with function(tensor) in the place of every Tensor in tuples, lists and dicts, at whatever depth."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {name: map_tensors(function, member) for name, member in value.items()}
    if isinstance(value, (tuple, list)):
        members = [map_tensors(function, member) for member in value]
        return type(value)(*members) if hasattr(value, "_fields") else type(value)(members)
    return value
