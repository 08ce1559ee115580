"""What travels with the gradients: the number of samples, the loss, whether to stop, and the module's buffers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dtrain.backend import Array
from dtrain.nn.module import Module

__all__ = ["Buffers"]

_FIRST = 3  # where the buffers begin in the header


class Buffers:
    """Makes a microbatch's header, and takes the step's sum of all headers.

    The header is [weight, weight * loss, whether a rank was asked to stop, weight * the change of each
    floating-point buffer, bytes of the other buffers]. Every microbatch starts from the buffers of the
    step's beginning; afterwards floating-point ones have made the weighted mean of the microbatches'
    changes (so one that nobody changes stays as it is), others (counters) are what microbatch 0 made
    of them. With one microbatch nothing is averaged: a plain loop's bits.
    """

    def __init__(self, module: Module, microbatches: int) -> None:
        self.alone = microbatches == 1
        # By owner and name: a forward may bind another tensor to the name.
        self.names: list[tuple[Module, str]] = []
        if not self.alone:
            seen = set()
            for owner in module.modules():
                for name, tensor, _ in owner._own_buffers():
                    if id(tensor) not in seen:
                        seen.add(id(tensor))
                        self.names.append((owner, name))
        self.size = _FIRST + sum(_room(array) for array in self._arrays())
        self.remember()

    def _arrays(self) -> Iterator[Array]:
        return (owner.__dict__[name].array for owner, name in self.names)

    def remember(self) -> None:
        """A step begins: its microbatches start from the buffers as they are now."""
        self.before = [array.copy() for array in self._arrays()]

    def restore(self) -> None:
        """The buffers as they were at the beginning of the step."""
        for array, before in zip(self._arrays(), self.before, strict=True):
            array[...] = before

    def take(self, microbatch: int, weight: float, loss: float, stop: bool) -> Array:
        """This microbatch's header: (size,). The buffers go back to what they were before it."""
        header = np.zeros(self.size)
        header[0] = weight
        if weight:
            header[1] = loss if self.alone else weight * loss
        header[2] = stop
        at = _FIRST
        for array, before in zip(self._arrays(), self.before, strict=True):
            room = slice(at, at + _room(array))
            if _is_float(array):
                if weight:  # what a microbatch without samples made of them may be NaN
                    header[room] = np.ravel(weight * (array - before))
            elif microbatch == 0:
                header[room] = np.frombuffer(array.tobytes(), np.uint8)
            at = room.stop
        self.restore()
        return header

    def put(self, header: Array) -> tuple[float, bool]:
        """Set the buffers from the sum of all headers; return the mean loss, and whether any rank was asked to stop."""
        stop = bool(header[2])
        if self.alone:
            return float(header[1]), stop
        total = float(header[0])
        if not total:
            raise ValueError("all microbatches of a step were empty or had weight 0: there is no mean to take")
        at = _FIRST
        for array, before in zip(self._arrays(), self.before, strict=True):
            room = slice(at, at + _room(array))
            if _is_float(array):
                array[...] = before + (header[room] / total).reshape(array.shape).astype(array.dtype)
            else:
                array[...] = np.frombuffer(header[room].astype(np.uint8).tobytes(), array.dtype).reshape(array.shape)
            at = room.stop
        return float(header[1] / total), stop


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f"


def _room(array: Array) -> int:
    return array.size if _is_float(array) else array.nbytes
