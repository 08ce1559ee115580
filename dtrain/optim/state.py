"""The state that an optimizer keeps for the tensors of one flat buffer, or for a shard of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from dtrain.autograd import Tensor
from dtrain.backend import Array, xp_of
from dtrain.nn.flat import Flat

__all__ = ["FlatState"]


class FlatState:
    """Arrays parallel to `flat.data[own]`, and how often each tensor of the Flat was updated.

    own: the elements of the flat buffer that this process updates: all of them, or a shard that begins and
    ends anywhere.
    """

    def __init__(self, flat: Flat, names: Iterable[str], own: slice) -> None:
        self.flat, self.own = flat, own
        self.pieces = [(t, t._flat) for t in flat.tensors]
        self.arrays: dict[str, Array] = {name: xp_of(flat.data).zeros_like(flat.data[own]) for name in names}
        self.count([0] * len(flat.tensors))

    def count(self, steps: list[int]) -> None:
        """These are the tensors' numbers of updates."""
        self.steps = steps
        self.in_step = len(set(steps)) == 1

    def owned(self, i: int) -> tuple[slice, slice]:
        """The owned elements of the i-th tensor, as a slice of the tensor (in C order) and as one of `own`."""
        place, own = self.pieces[i][1].slice, self.own
        lo, hi = max(place.start, own.start), min(place.stop, own.stop)
        hi = max(lo, hi)
        return slice(lo - place.start, hi - place.start), slice(lo - own.start, hi - own.start)

    def is_current(self) -> bool:
        """Whether the tensors still live in the Flat."""
        return all(t._flat is piece for t, piece in self.pieces)

    def has_all_gradients(self) -> bool:
        """Whether every gradient is where backward put it, in the flat buffer."""
        return all(t.grad is piece.grad for t, piece in self.pieces)

    def whole(self, name: str) -> Array:
        """A state array for all of the flat buffer, whoever keeps it."""
        return self.arrays[name]

    def by_tensor(self, arrays: Mapping[str, Array]) -> Iterator[tuple[Tensor, int, dict[str, Array]]]:
        """(tensor, steps, {name: its elements, 1-D}); arrays: like `self.arrays`, but for the whole Flat."""
        for (t, piece), steps in zip(self.pieces, self.steps, strict=True):
            yield t, steps, {name: a[piece.slice] for name, a in arrays.items()}
