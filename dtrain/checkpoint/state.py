"""State dicts as JSON and arrays: what JSON cannot say as it is gets a mark that starts with "$".

Tensor, array   {"$tensor": name}, {"$array": name}: the array is kept apart, under this name
tuple           {"$tuple": [...]}
other dicts     {"$dict": [[key, value], ...]}: with keys that are not strings, or start with "$"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dtrain.autograd import Tensor
from dtrain.backend import to_numpy

__all__ = ["pack", "unpack"]


def pack(value: Any, name: str, arrays: dict[str, Any]) -> Any:
    """`value` as JSON; the arrays in it join `arrays`, not copied, under names that begin with `name`.

    Raises TypeError, with the name, for what is neither a number, text, None, array or Tensor nor a dict, list
    or tuple of such.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor) or hasattr(value, "__array_interface__"):
        while name in arrays:
            name += "_"
        arrays[name] = to_numpy(value.array if isinstance(value, Tensor) else value)
        return {"$tensor" if isinstance(value, Tensor) else "$array": name}
    if isinstance(value, Mapping):
        items = [(key, pack(v, f"{name}.{key}", arrays)) for key, v in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key, _ in items):
            return dict(items)
        return {"$dict": [[pack(key, name, arrays), v] for key, v in items]}
    if isinstance(value, (list, tuple)):
        packed = [pack(v, f"{name}.{i}", arrays) for i, v in enumerate(value)]
        return packed if isinstance(value, list) else {"$tuple": packed}
    raise TypeError(f"{name} is a {type(value).__name__}, which a checkpoint cannot hold; use numbers, text or arrays")


def unpack(value: Any, arrays: Mapping[str, Any]) -> Any:
    """What `pack` was given."""
    if isinstance(value, list):
        return [unpack(v, arrays) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((mark, held),) = value.items()
        if mark == "$tensor":
            return Tensor(arrays[held])
        if mark == "$array":
            return arrays[held]
        if mark == "$tuple":
            return tuple(unpack(held, arrays))
        if mark == "$dict":
            return {unpack(key, arrays): unpack(v, arrays) for key, v in held}
    return {key: unpack(v, arrays) for key, v in value.items()}
