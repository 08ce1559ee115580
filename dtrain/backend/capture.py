"""What a step does on the host beside giving work to a GPU, noted while the work is captured as a CUDA graph.

When the graph is started again, nobody runs the step's Python. So whatever changes from step to step has a place here:

    room     numbers that kernels read from memory, where the host writes those of the next step
    effect   what is to be done again on the host before each start, in the same order: counters, keys of random draws
    check    whether the step would still do the same; it writes the next step's numbers, and changes nothing else
    refuse   what cannot be in a graph says so

A step is first run with a Capture that only rehearses: everything is done as ever, and what refuses is noted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["Capture", "NotCapturable", "Refill", "present", "refill", "refilling", "refuse", "rehearsing", "under"]


class NotCapturable(RuntimeError):
    """A step does what cannot be in a CUDA graph."""


class Refill:
    """The rooms of kernels that would be started again, in their order: `take` gives the next."""

    def __init__(self, rooms: list[tuple[Any, np.ndarray]]) -> None:
        self._rooms = iter(rooms)

    def take(self, text: Any, numbers: list[Any]) -> None:
        """Write the numbers where the kernel of this text reads them. Raises NotCapturable where it is another one."""
        before, room = next(self._rooms, (None, None))
        if before != text or room is None:
            raise NotCapturable("an optimizer's update has changed")
        room[:] = numbers


class _Here(threading.local):
    capture: Capture | None = None
    refill: Refill | None = None


_here = _Here()


class Capture:
    """One captured step. rehearsing: nothing is captured, and what refuses is noted in `reasons`.

    host, device: as many bytes on the host and, in a CuPy array, on the GPU, in which the rooms lie.
    """

    def __init__(self, rehearsing: bool, host: np.ndarray | None = None, device: Any = None) -> None:
        self.rehearsing, self.host, self.device = rehearsing, host, device
        self.reasons: list[str] = []
        self.effects: list[Callable[[], Any]] = []
        self.checks: list[Callable[[], Any]] = []
        self.rooms: list[tuple[Any, np.ndarray]] = []
        self.used = 0
        self.finished: Any = None  # the event of the last start

    def effect(self, function: Callable[[], Any]) -> None:
        """Call this before each start."""
        self.effects.append(function)

    def room(self, text: Any, numbers: list[Any], dtype: Any) -> Any:
        """Numbers that may be others in the next step, as an array on the GPU; `text` says what for."""
        assert self.host is not None
        dtype = np.dtype(dtype)
        start, nbytes = self.used, max(1, len(numbers)) * dtype.itemsize
        self.used = -(-(start + nbytes) // 16) * 16
        if self.used > len(self.host):
            raise NotCapturable(f"its kernels need more than {len(self.host)} bytes of numbers")
        host = self.host[start : start + nbytes].view(dtype)[: len(numbers)]
        host[:] = numbers
        self.rooms.append((text, host))
        return self.device[start : start + nbytes].view(dtype)


def present() -> Capture | None:
    """The capture that this thread's step is under, unless it only rehearses."""
    capture = _here.capture
    return None if capture is None or capture.rehearsing else capture


def rehearsing() -> bool:
    """Whether this thread's step is the rehearsal: what a capture will need is to be made ready."""
    return _here.capture is not None and _here.capture.rehearsing


def refuse(why: str) -> None:
    """Called by what cannot be in a graph, before it does that. Raises NotCapturable in a capture."""
    capture = _here.capture
    if capture is None:
        return
    if not capture.rehearsing:
        raise NotCapturable(why)
    capture.reasons.append(why)


def refill() -> Refill | None:
    """Where kernels write their numbers in the place of being started; None: they are started."""
    return _here.refill


@contextmanager
def under(capture: Capture | None) -> Iterator[Any]:
    """Inside, this thread's work belongs to the capture, or to none."""
    before, _here.capture = _here.capture, capture
    try:
        yield capture
    finally:
        _here.capture = before


@contextmanager
def refilling(rooms: list[tuple[Any, np.ndarray]]) -> Iterator[None]:
    """Inside, kernels are not started, but their numbers are written into these rooms."""
    _here.refill = Refill(rooms)
    try:
        yield
    finally:
        _here.refill = None
