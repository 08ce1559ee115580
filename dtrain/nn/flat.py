"""Parameters and gradients in one piece of memory.

`flatten` moves tensors of one dtype and device into one flat array of values and one of gradients,
of which each tensor's `.data` and `.grad` are views from then on. An optimizer then updates all of
them with a few array operations, and DistributedDataParallel sends slices of the flat gradient
without packing. Every tensor starts on a 64-byte boundary of the flat arrays; the gaps hold zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dtrain.autograd import Tensor
from dtrain.backend import Array, device_of, xp_of

__all__ = ["Flat", "Piece", "flatten"]

_ALIGNMENT = 64  # bytes: a cache line, and what vector loads and GPU libraries like


class Piece:
    """The place of one tensor in a Flat."""

    __slots__ = ("flat", "grad", "slice")

    def __init__(self, flat: Flat, where: slice, grad: Tensor) -> None:
        self.flat, self.slice, self.grad = flat, where, grad


class Flat:
    """Tensors of one dtype and device, in one array of values and one of gradients.

    tensors: in the order of memory. data, grad: (n,).
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        first = tensors[0].array
        step = _ALIGNMENT // first.dtype.itemsize
        starts, n = [], 0
        for t in tensors:
            starts.append(n)
            n += -(-t.array.size // step) * step
        xp = xp_of(first)
        self.tensors = list(tensors)
        self.data: Array = xp.zeros(n, first.dtype)
        self.grad: Array = xp.zeros(n, first.dtype)
        for t, start in zip(tensors, starts, strict=True):
            where = slice(start, start + t.array.size)
            data, grad = (a[where].reshape(t.array.shape) for a in (self.data, self.grad))
            data[...] = t.array
            piece = Piece(self, where, Tensor(grad))
            if t.grad is not None:
                grad[...] = t.grad.array
                t.grad = piece.grad
            t.array, t._flat = data, piece

    def put_data(self, data: Array) -> None:
        """Let `data`, with the values that it has, be the memory of the tensors' values from now on."""
        self.data = data
        for t in self.tensors:
            t.array = data[t._flat.slice].reshape(t.array.shape)

    def move_gradients(self, room: Array, start: int) -> None:
        """Let the gradients lie in `room`, 1-D, from element `start` on."""
        room[start : start + len(self.grad)] = self.grad
        self.grad = room[start : start + len(self.grad)]
        for t in self.tensors:
            piece = t._flat
            piece.grad.array = self.grad[piece.slice].reshape(t.array.shape)

    def is_whole(self) -> bool:
        """Whether all tensors still live here: none was moved, converted or flattened elsewhere."""
        return all(t._flat is not None and t._flat.flat is self for t in self.tensors)


def flatten(tensors: Iterable[Tensor]) -> list[Flat]:
    """The Flats that hold exactly these tensors, one for each dtype, device and owner, trained ones apart.

    Those that exist already are kept; otherwise the tensors move to new ones, in the order in which
    they lay in flat memory before, or else in reverse: gradients of the last layers arrive first.
    """
    groups: dict[Any, list[Tensor]] = {}
    for t in tensors:
        owner = None if t._sink is None else id(t._sink.owner)
        groups.setdefault((t.dtype, device_of(t.array), t.requires_grad, owner), []).append(t)
    flats = []
    for group in groups.values():
        piece = group[0]._flat
        if piece is not None and set(map(id, piece.flat.tensors)) == set(map(id, group)) and piece.flat.is_whole():
            flats.append(piece.flat)
            continue
        if all(t._flat is not None for t in group) and len({id(t._flat.flat) for t in group}) == 1:
            group.sort(key=lambda t: t._flat.slice.start)
        else:
            group.reverse()
        flats.append(Flat(group))
    return flats
