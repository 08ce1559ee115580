"""What a rank waits for, noted so cheaply that it always is: a watchdog on another thread reads it."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

__all__ = ["Calls", "Noted", "State", "Waits"]


@dataclass(frozen=True)
class State:
    """How far a rank is in a sequence of collectives that all of `ranks` call in the same order.

    number: how many of them it has begun. waiting: whether it is in the last of them, whose name is `what`.
    ranks: as numbered in the job. missing: those known to be late; None where only they themselves know.
    """

    number: int
    what: str
    waiting: bool
    ranks: Sequence[int]
    missing: Sequence[int] | None = None


class Noted(Protocol):
    """Something in which ranks wait for each other."""

    def state(self) -> State:
        """Where this rank is in it; called by any thread."""
        ...


class Calls:
    """The collectives of one communicator on one thread: `with calls("barrier"): ...` around each."""

    def __init__(self, ranks: Sequence[int]) -> None:
        self._ranks, self._number, self._what, self._waiting = ranks, 0, "", False

    def __call__(self, what: str, *arrays: Any) -> Calls:
        """The call that comes next, and the arrays in which others may read and write during it."""
        self._what = what
        return self

    def __enter__(self) -> None:
        self._number += 1
        self._waiting = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting = False

    def state(self) -> State:
        while True:
            number, what, waiting = self._number, self._what, self._waiting
            if number == self._number:  # else the next call has begun meanwhile
                return State(number, what, waiting, self._ranks)


class Waits:
    """All that a rank of a job may wait in, and where in the program it is."""

    def __init__(self) -> None:
        self._noted: list[tuple[str, weakref.ref[Noted]]] = []
        self._names: Counter[str] = Counter()
        #: A weak reference to what says where the rank is (step, microbatch, bucket); a model in training sets it.
        self.phase: Callable[[], Callable[[], str] | None] = lambda: None
        #: Steps that this rank has finished.
        self.steps = 0

    def add(self, name: str, noted: Noted) -> None:
        """Look at this too, while it lives. All of its ranks add it in the same order: names count on it."""
        self._names[name] += 1
        count = self._names[name]
        living = [(name, found) for name, found in self._noted if found() is not None]
        self._noted = [*living, (name if count == 1 else f"{name} ({count})", weakref.ref(noted))]

    def clear(self) -> None:
        """Forget all: from now on the ranks are others."""
        self._noted, self._names = [], Counter()

    def states(self) -> dict[str, State]:
        """The state of everything that lives, by name."""
        found = [(name, noted()) for name, noted in self._noted]
        return {name: noted.state() for name, noted in found if noted is not None}

    def where(self) -> str:
        """Where in the program this rank is, as far as somebody has said."""
        describe = self.phase()
        return describe() if describe is not None else ""
