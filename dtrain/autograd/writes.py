"""What was written in place, and when: a gradient whose saved values were changed is an error, not a wrong number."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from dtrain.backend import Array

if TYPE_CHECKING:
    from dtrain.autograd.graph import Node

__all__ = ["Writes", "check_unspoiled", "mark_written", "writes"]


class Writes:
    """A clock that moves with every write, and the time of the last write into each piece of memory."""

    def __init__(self) -> None:
        self.now = 0
        self.times: dict[int, tuple[Any, int]] = {}  # id of the array that owns the memory -> it (weak), time


writes = Writes()


def _owner(array: Array) -> Array:
    """The array whose memory this one is, or is a part of."""
    while isinstance(getattr(array, "base", None), type(array)):
        array = array.base
    return array


def mark_written(array: Array) -> None:
    """Note that the memory of `array` was changed; graphs recorded before may not be walked if they kept it."""
    owner = _owner(array)
    writes.now += 1
    number = id(owner)
    writes.times[number] = weakref.ref(owner, lambda _: writes.times.pop(number, None)), writes.now


def _kept(thing: Any, depth: int = 6) -> list[Array]:
    """The arrays that a pullback holds: what its closures refer to."""
    if isinstance(thing, np.ndarray) or hasattr(thing, "__cuda_array_interface__"):
        return [thing]
    if not depth:
        return []
    if isinstance(thing, (list, tuple)):
        parts = list(thing)
    else:
        function = getattr(thing, "function", thing)  # a Joint's
        parts = [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _is_set(cell)]
    return [array for part in parts for array in _kept(part, depth - 1)]


def _is_set(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that is not bound (any more)
        return False


def check_unspoiled(node: Node) -> None:
    """Raise RuntimeError where something that the node's pullbacks keep was written after the node was made."""
    pullbacks = node.pullbacks
    if pullbacks.__class__ is tuple:  # those that run
        pullbacks = [p for p, parent in zip(pullbacks, node.parents, strict=False) if hasattr(parent, "pullbacks")]
    for array in _kept(pullbacks):
        owner = _owner(array)
        ref, time = writes.times.get(id(owner), (None, 0))
        if time > node.time and ref is not None and ref() is owner:
            raise RuntimeError(
                f"the gradient of op '{node.op}' needs a tensor of shape {tuple(array.shape)} that has been changed in "
                "place since; walk backward before the change, or write into a copy (tensor.clone())"
            )
