"""What travels with the gradients: the number of samples, the loss, whether to stop, and the module's buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dtrain.autograd import Tensor
from dtrain.backend import Array, fetched, on_gpu, xp_of
from dtrain.nn.module import Module
from dtrain.nn.norm import SyncBatchNorm

__all__ = ["Buffers"]

_FIRST = 4  # where the buffers begin in the header

#: What a module's buffers are at some time: the tensors (a forward may bind others) and their values.
State = list[tuple[Tensor, Array]]


class Buffers:
    """Makes a microbatch's header, and takes the step's sum of all headers.

    The header is [weight, weight * loss, whether a rank was asked to stop, 1, weight * the change of each
    floating-point buffer, bytes of the other buffers]. Every microbatch starts from the buffers of the
    step's beginning; afterwards floating-point ones have made the weighted mean of the microbatches'
    changes (so one that nobody changes stays as it is), others (counters) are what microbatch 0 made
    of them. With one microbatch nothing is averaged: a plain loop's bits. Nor are those of a
    SyncBatchNorm averaged where it is `synced`: every microbatch makes the same of them.

    Several steps may be summed together: then each microbatch goes on with what it made of the buffers in the one
    before, and headers are summed over all.
    """

    def __init__(self, module: Module, microbatches: int, synced: bool = False) -> None:
        self.microbatches, self.alone = microbatches, microbatches == 1
        # By owner and name: a forward may bind another tensor to the name.
        self.names: list[tuple[Module, str]] = []
        self.averaged: list[bool] = []
        if not self.alone:
            seen = set()
            for owner in module.modules():
                for name, tensor, _ in owner._own_buffers():
                    if id(tensor) not in seen:
                        seen.add(id(tensor))
                        self.names.append((owner, name))
                        self.averaged.append(not (synced and isinstance(owner, SyncBatchNorm)))
        rooms = (_room(t.array) for t, averaged in zip(self.now(), self.averaged, strict=True) if averaged)
        self.size = _FIRST + sum(rooms)
        self.remember()

    # -- whose they are --------------------------------------------------------------------------

    def remember(self) -> None:
        """A step begins: its microbatches start from the buffers as they are now."""
        self.before = self.save()
        self.made: dict[int, State] = {}
        self.starts: dict[int, State] = {}  # by microbatch: what it made of them in steps that wait to be summed
        self.present: int | None = None

    def enter(self, k: int) -> None:
        """From now on they are those of the rank's k-th microbatch, as it left them."""
        if k != self.present:
            self.leave()
            if k in self.made:
                self.load(self.made[k])
            self.present = k

    def leave(self, keep: bool = True) -> None:
        """They are as they were at the beginning of the step; keep: what the microbatch made of them is kept."""
        if self.present is not None:
            if keep:
                self.made[self.present] = self.save()
            self.restore()
            self.present = None

    def go_on(self) -> None:
        """Another step follows that is summed together with this one."""
        self.starts = dict(self.made)

    def restore(self) -> None:
        """The buffers as they were at the beginning of the step."""
        self.load(self.before)

    def now(self) -> Iterator[Tensor]:
        """The buffers; none where there is one microbatch."""
        return (owner.__dict__[name] for owner, name in self.names)

    def save(self) -> State:
        """A copy, for `load`."""
        return [(tensor, tensor.array.copy()) for tensor in self.now()]

    def load(self, state: State) -> None:
        """Let the buffers be what they were when they were saved."""
        for (owner, name), (tensor, values) in zip(self.names, state, strict=True):
            owner.__dict__[name] = tensor
            tensor.array[...] = values

    # -- as a message ----------------------------------------------------------------------------

    def take(self, k: int, first: bool, weight: float, loss: Any, stop: Any, like: Array) -> Array:
        """The header of the rank's k-th microbatch: (size,). first: whether it is the one whose counters count.

        loss, stop: a number and a truth, or arrays of one on the device of `like`, where the header is made.
        """
        header = xp_of(like).zeros(self.size)
        header[0] = weight
        if weight:
            header[1] = loss if self.alone else weight * loss
        if stop is not False:
            header[2] = stop
        header[3] = 1
        self.same = []
        for array, before, room in self._rooms(self.starts.get(k, self.before)):
            if room is None:
                self.same.append(array.copy())
            elif _is_float(array):
                if weight:  # what a microbatch without samples made of them may be NaN
                    header[room] = (weight * (array - before)).reshape(-1)
            elif first:
                header[room] = array.reshape(-1).view(np.uint8)
        return header

    def put(self, header: Array, steps: int = 1) -> Callable[[], tuple[float, bool]]:
        """Set the buffers from the sum of the headers of so many steps.

        Returns a function that returns the mean loss, and whether any rank was asked to stop. It raises RuntimeError
        where ranks have other numbers of steps, and ValueError where there were no samples; on a CPU that comes first,
        while a GPU is not waited for.
        """
        head = fetched(header[:_FIRST])

        def news() -> tuple[float, bool]:
            return self._read(head(), steps)

        if not on_gpu(header):
            news()
        total, same = header[0], iter(self.same)
        for array, before, room in self._rooms(self.before):
            if room is None:
                array[...] = next(same)
            elif _is_float(array):
                array[...] = before + (header[room] / total * steps).reshape(array.shape).astype(array.dtype)
            else:
                array[...] = header[room].astype(np.uint8).view(array.dtype).reshape(array.shape)
        return news

    def _read(self, header: Array, steps: int) -> tuple[float, bool]:
        stop, of_all = bool(header[2]), float(header[3]) / self.microbatches
        if of_all != steps:
            raise RuntimeError(
                f"this rank has added up the gradients of {steps} steps, and the mean over ranks is {of_all:g}: all "
                "ranks must have as many steps inside of no_sync() before one outside"
            )
        if self.alone:
            return float(header[1]) / steps, stop
        total = float(header[0])
        if not total:
            raise ValueError("all microbatches of a step were empty or had weight 0: there is no mean to take")
        return float(header[1] / total), stop

    def _rooms(self, state: State) -> Iterator[tuple[Array, Array, slice | None]]:
        """Each buffer, its values in this state, and its place in the header, None if it has none."""
        at = _FIRST
        for tensor, (_, before), averaged in zip(self.now(), state, self.averaged, strict=True):
            room = slice(at, at + _room(tensor.array)) if averaged else None
            at = room.stop if room else at
            yield tensor.array, before, room


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f"


def _room(array: Array) -> int:
    return array.size if _is_float(array) else array.nbytes
