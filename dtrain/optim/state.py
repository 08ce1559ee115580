"""The state that an optimizer keeps for the tensors of one flat buffer, or for a shard of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dtrain.autograd import Tensor
from dtrain.backend import Array, device_of, to_device, xp_of
from dtrain.nn.flat import Flat

__all__ = ["FlatState", "ShapedState", "Unsure", "copied", "taken"]


class FlatState:
    """Arrays parallel to `flat.data[own]`, and numbers of each tensor of the Flat.

    own: the elements of the flat buffer that this process updates: all of them, or a shard that begins and
    ends anywhere. numbers: the names of what is kept in `counts` beside "step", how often a tensor was updated.
    """

    arrays: dict[str, Array]

    def __init__(self, flat: Flat, names: Iterable[str], own: slice, numbers: Sequence[str] = ()) -> None:
        self.flat, self.own = flat, own
        self.pieces = [(t, t._flat) for t in flat.tensors]
        self.arrays = {name: xp_of(flat.data).zeros_like(flat.data[own]) for name in names}
        self.numbers = tuple(numbers)
        self.count([{}] * len(flat.tensors))

    def count(self, counts: Sequence[Mapping[str, Any]]) -> None:
        """These are the tensors' numbers; 0 for those that are not given."""
        self.counts: list[dict[str, Any]] = [
            {"step": int(c.get("step", 0)), **{name: float(c.get(name, 0.0)) for name in self.numbers}} for c in counts
        ]
        self.in_step = all(c == self.counts[0] for c in self.counts)

    def count_all(self, counts: dict[str, Any]) -> None:
        """These are the numbers of every tensor."""
        self.counts, self.in_step = [counts] * len(self.pieces), True

    def owned(self, i: int) -> tuple[slice, slice]:
        """The owned elements of the i-th tensor, as a slice of the tensor (in C order) and as one of `own`."""
        place, own = self.pieces[i][1].slice, self.own
        lo, hi = max(place.start, own.start), min(place.stop, own.stop)
        hi = max(lo, hi)
        return slice(lo - place.start, hi - place.start), slice(lo - own.start, hi - own.start)

    def is_current(self) -> bool:
        """Whether the tensors still live in the Flat."""
        for t, piece in self.pieces:  # noqa: SIM110  (faster than all())
            if t._flat is not piece:
                return False
        return True

    def has_all_gradients(self) -> bool:
        """Whether every gradient is where backward put it, in the flat buffer."""
        for t, piece in self.pieces:  # noqa: SIM110
            if t.grad is not piece.grad:
                return False
        return True

    def whole(self, name: str) -> Array:
        """A state array for all of the flat buffer, whoever keeps it."""
        return self.arrays[name]

    def of_tensor(self, i: int, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """{name: what belongs to the i-th tensor, in its shape}; arrays: like `self.arrays`, but for the whole Flat."""
        t, piece = self.pieces[i]
        return {name: a[piece.slice].reshape(t.array.shape) for name, a in arrays.items()}

    def by_tensor(self, arrays: Mapping[str, Array]) -> Iterator[tuple[Tensor, dict[str, Any], dict[str, Array]]]:
        """(tensor, its numbers, {name: array}) for every tensor; arrays: as of `of_tensor`."""
        for i, (t, _) in enumerate(self.pieces):
            yield t, self.counts[i], self.of_tensor(i, arrays)

    def put(self, i: int, name: str, value: Array) -> None:
        """Let the i-th tensor's state array have the values of `value`, which is all of it."""
        part, own = self.owned(i)
        self.arrays[name][own] = self._here(value).reshape(-1)[part]

    def _here(self, value: Array) -> Array:
        """Values that may come from another device."""
        return to_device(value, device_of(self.flat.data))


class ShapedState(FlatState):
    """Arrays whose shapes follow from the shapes of the tensors, one tensor's after the other's in one piece.

    shapes: what arrays a tensor of some shape has, and their shapes.
    """

    def __init__(
        self,
        flat: Flat,
        names: Iterable[str],
        shapes: Callable[[tuple[int, ...]], dict[str, tuple[int, ...]]],
        numbers: Sequence[str] = (),
    ) -> None:
        super().__init__(flat, (), slice(0, len(flat.data)), numbers)
        self.places: list[dict[str, tuple[slice, tuple[int, ...]]]] = [{} for _ in self.pieces]
        for name in names:
            n = 0
            for (t, _), places in zip(self.pieces, self.places, strict=True):
                shape = shapes(t.array.shape).get(name)
                if shape is not None:
                    places[name] = slice(n, n + math.prod(shape)), shape
                    n += math.prod(shape)
            self.arrays[name] = xp_of(flat.data).zeros(n, flat.data.dtype)

    def of_tensor(self, i: int, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """{name: what belongs to the i-th tensor, in its shape}, of those that it has."""
        return {n: arrays[n][place].reshape(shape) for n, (place, shape) in self.places[i].items() if n in arrays}

    def put(self, i: int, name: str, value: Array) -> None:
        """Let the i-th tensor's state array, where it has such a one, have the values of `value`."""
        if name in self.places[i]:
            self.arrays[name][self.places[i][name][0]] = self._here(value).reshape(-1)


class Unsure:
    """A step that a GPU makes only if `made()`, an array of one truth, holds: made when nothing is counted yet."""

    def __init__(self, states: Sequence[Sequence[FlatState]], made: Callable[[], np.ndarray]) -> None:
        self._made = made
        self._before = {id(t): counts for of_group in states for s in of_group for t, counts, _ in s.by_tensor({})}

    def settle(self, states: Sequence[Sequence[FlatState]]) -> None:
        """Where the step was left out, tensors have the numbers that they had before."""
        if not self._made():
            for state in (s for of_group in states for s in of_group):
                state.count([self._before.get(id(t), {}) for t, _ in state.pieces])


def copied(value: Any) -> Any:
    """A state or options with copies of the Tensors in it."""
    if isinstance(value, dict):
        return {k: copied(v) for k, v in value.items()}
    if isinstance(value, list):
        return [copied(v) for v in value]
    return Tensor(value.array.copy()) if isinstance(value, Tensor) else value


def taken(value: Any) -> Any:
    """A saved option as this optimizer's own: nothing is shared, and another library's tensor becomes a Tensor."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return tuple(map(taken, value))
    if not isinstance(value, Tensor) and hasattr(value, "__array__"):
        return Tensor(np.array(value))
    return copy.deepcopy(value)
