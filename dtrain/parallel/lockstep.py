"""Several microbatches on one rank that wait for each other, as if each had a rank of its own."""

from __future__ import annotations

import contextvars
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.autograd.mode import mode
from dtrain.backend import Array
from dtrain.comm import Communicator, RankLost
from dtrain.data.sampler import microbatch_block

__all__ = ["Lockstep"]


class _Cancelled(BaseException):
    """Another microbatch has failed."""


class Lockstep:
    """Runs a function for each of this rank's microbatches; in it `gather` shows a row to all microbatches.

    All ranks `run` together. The functions are on threads of their own, of which one at a time runs: the first up to
    its `gather`, then the second up to its own, and so on; then the ranks exchange the rows, from the thread
    that called `run`, and the first goes on. So what they do happens in one order, whatever the number of ranks
    leaves to this one. A rank with one microbatch needs no thread.
    """

    def __init__(self, comm: Communicator, microbatches: int) -> None:
        self.comm, self.microbatches = comm, microbatches
        self._members: list[_Member] = []
        self._running: _Member | None = None

    @property
    def block(self) -> range:
        """The microbatches of this rank, as ranks are now: some may have been lost."""
        return microbatch_block(self.comm.rank, self.comm.size, self.microbatches)

    def run(self, functions: Sequence[Callable[[], Any]], switch: Callable[[int], None]) -> list[Any]:
        """The functions' results. switch(k) is called whenever the k-th is about to go on.

        What one of them raises is raised here, and the others are ended. Raises RuntimeError where they, or
        their ranks, do not gather at the same places.
        """
        self._members = [_Member(function, j) for function, j in zip(functions, self.block, strict=True)]
        try:
            if len(self._members) == 1:
                (self._running,) = self._members
                switch(0)
                return [functions[0]()]
            while not all(member.done for member in self._members):
                for k, member in enumerate(self._members):
                    switch(k)
                    self._running = member
                    member.go_on()
                self._exchange()
            return [member.result for member in self._members]
        finally:
            members, self._members, self._running = self._members, [], None
            for member in members:
                member.end()

    def gather(self, place: int, row: Array) -> Array:
        """The rows of all microbatches in their order, each given at the same place. (k,) float64 -> (M, k)

        place: a number that is the same for what belongs together.
        """
        member = self._running
        if member is None:
            raise RuntimeError(
                "a SyncBatchNorm gets a gradient outside of DistributedDataParallel's backward pass: call the wrapped "
                "model, and let it return Tensors, alone or in tuples, lists, dicts or dataclasses"
            )
        member.row = np.concatenate([[place], row])
        if len(self._members) == 1:
            self._exchange()
        else:
            member.pause()
        return member.rows

    def _exchange(self) -> None:
        """Each member's row becomes the rows of all."""
        places = [None if member.row is None else (member.row[0], member.row.size) for member in self._members]
        if len(set(places)) > 1:
            at = ", ".join(
                f"microbatch {member.number} {'at its end' if place is None else f'at number {place[0]:.0f}'}"
                for member, place in zip(self._members, places, strict=True)
            )
            raise RuntimeError(
                "every microbatch of a step must take the same way through the model's SyncBatchNorms (counted in the "
                f"order of model.modules()), with inputs of as many channels; here {at}"
            )
        if places[0] is None:
            return
        size = places[0][1]
        rows = np.zeros((self.microbatches, size))
        rows[self.block.start : self.block.stop] = [member.row for member in self._members]
        starts = [microbatch_block(r, self.comm.size, self.microbatches).start for r in range(self.comm.size)]
        try:
            self.comm.all_gather_(rows.reshape(-1), [start * size for start in (*starts, self.microbatches)])
        except RankLost:  # the end of the step takes it back; until then any numbers will do
            rows[:] = self._members[0].row
        if (rows[:, 0] != rows[0, 0]).any():
            raise RuntimeError(
                "every microbatch of a step must take the same way through the model's SyncBatchNorms (counted in the "
                f"order of model.modules()); here the microbatches are at numbers {rows[:, 0].astype(int).tolist()}"
            )
        for member in self._members:
            member.row, member.rows = None, rows[:, 1:]


class _Member:
    """A function on a thread that runs from `go_on` to the next `pause`."""

    def __init__(self, function: Callable[[], Any], number: int) -> None:
        self.function, self.number = function, number
        self.row: Array | None = None  # that it has given
        self.rows: Any = None  # that it is given
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._go: queue.SimpleQueue[bool] = queue.SimpleQueue()  # False: end
        self._back: queue.SimpleQueue[None] = queue.SimpleQueue()

    def go_on(self) -> None:
        """Called by the thread that runs all: returns when this one pauses or is done, raises what it raises."""
        if self.done:
            return
        if self._thread is None:
            context, flags, trace = contextvars.copy_context(), dict(mode.__dict__), sys.gettrace()
            self._thread = threading.Thread(
                target=context.run, args=(self._run, flags, trace), name=f"microbatch-{self.number}", daemon=True
            )
            self._thread.start()
        self._go.put(True)
        self._back.get()
        if self.error is not None:
            raise self.error

    def pause(self) -> None:
        """Called by the function: returns when it may go on."""
        self._back.put(None)
        if not self._go.get():
            raise _Cancelled

    def end(self) -> None:
        """Leave no thread behind."""
        if self._thread is not None:
            self._go.put(False)
            self._thread.join()
            self.error = None

    def _run(self, flags: dict[str, Any], trace: Any) -> None:
        sys.settrace(trace)  # so that a debugger follows
        mode.__dict__.update(flags)  # gradients recorded or not, autocast or not
        try:
            if self._go.get():
                self.result = self.function()
        except _Cancelled:
            pass
        except BaseException as error:
            error.add_note(f"(in microbatch {self.number})")
            self.error = error
        self.done = True
        self._back.put(None)
