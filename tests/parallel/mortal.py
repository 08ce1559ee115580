"""Ranks that die at a chosen moment: threads of one process, and a communicator that goes on with the others.

The naive twin of dtrain/comm/survive.py: what MPI does among processes, agreeing and shrinking, is a lock here.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from dtrain.comm import Communicator, RankLost, ThreadCommunicator, Window
from dtrain.comm.threads import Meeting

T = TypeVar("T")


class Dies(BaseException):
    """This rank is no more."""


class World:
    """The ranks 0 to size - 1, of which some die: `deaths[r]` says at which of its moments rank r does.

    A rank has a moment before and after each meeting with the others, from `begin_to_die` on.
    """

    def __init__(self, size: int, deaths: Mapping[int, int]) -> None:
        self.deaths, self.moments = deaths, Counter[int]()
        self.changed = threading.Condition()
        self.alive = self.members = list(range(size))
        self.meeting, self.twin = Meeting(size), Meeting(size)
        self.said: dict[Any, dict[int, bool]] = {}
        self.decided: dict[Any, Any] = {}
        self.failed: list[BaseException] = []
        self.mortals: set[int] = set()

    def moment(self, number: int) -> None:
        if number in self.mortals:
            self.moments[number] += 1
            if self.moments[number] == self.deaths.get(number):
                raise Dies

    def dies(self, number: int) -> None:
        with self.changed:
            self.alive = [r for r in self.alive if r != number]
            self.meeting.abort()
            self.twin.abort()
            self.changed.notify_all()

    def decide(self, key: Any, number: int, says: bool, decision: Callable[[bool], T]) -> T:
        """decision(whether all that are alive say so), made once, when all of them have said something."""
        self.moment(number)
        with self.changed:
            self.said.setdefault(key, {})[number] = says
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.failed or key in self.decided or set(self.alive) <= set(self.said[key]))
            if self.failed:
                raise Dies
            if key not in self.decided:
                self.decided[key] = decision(all(self.said[key][r] for r in self.alive))
            return self.decided[key]

    def begin_anew(self, all_done: bool) -> bool:
        """The ranks that are alive get new meetings."""
        self.members = list(self.alive)
        self.meeting, self.twin = Meeting(len(self.members)), Meeting(len(self.members))
        return all_done


class MortalCommunicator(ThreadCommunicator):
    """Rank `number` of the world at its beginning."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number, self.agreements = world, number, 0
        self._join()
        self.survives = True

    def _join(self) -> None:
        world = self.world
        rank = world.members.index(self.number)
        super().__init__(rank, world.meeting, world.twin, ["here"] * len(world.members))

    def begin_to_die(self) -> None:
        """From now on this rank has moments. Waits until all have come here."""
        world = self.world
        with world.changed:
            world.mortals.add(self.number)
            world.changed.notify_all()
            world.changed.wait_for(lambda: world.failed or len(world.mortals) == self.size)

    @contextmanager
    def _show(self, value: Any) -> Iterator[list[Any]]:
        self.world.moment(self.number)
        try:
            with super()._show(value) as values:
                yield values
        except threading.BrokenBarrierError:
            raise RankLost("a rank has died") from None
        self.world.moment(self.number)

    def window(self, nbytes: int, patient: bool = False) -> Window | None:
        with self._show(np.zeros(nbytes, np.uint8)) as parts:
            return Window(parts, self.barrier)

    def _twin(self) -> Communicator:
        twin = object.__new__(MortalCommunicator)
        twin.__dict__.update(self.__dict__)
        twin._meeting = self._twin_meeting
        return twin

    def attempt(self, function: Callable[..., T], *args: Any) -> tuple[bool, T | None]:
        result, world = None, self.world
        try:
            result = function(*args)
            done = True
        except RankLost:
            done = False
        self.agreements += 1
        key = self.generation, self.agreements
        if world.decide(key, self.number, done, lambda yes: yes and world.alive == world.members):
            return True, result
        all_done = world.decide((key, "go on"), self.number, done, world.begin_anew)
        kept = {name: self.__dict__[name] for name in ("generation", "redone", "models", "microbatches", "_helper")}
        self._join()
        self.__dict__.update(kept)
        self.survives, self.generation = True, self.generation + 1
        return all_done, result if all_done else None


def run_mortals(size: int, fn: Callable[[Communicator], T], deaths: Mapping[int, int]) -> tuple[dict[int, T], World]:
    """fn(comm) on `size` ranks, of which some die; the results of those that do not, by their first number."""
    world = World(size, deaths)
    results: dict[int, T] = {}

    def live(number: int) -> None:
        comm = MortalCommunicator(world, number)
        try:
            results[number] = fn(comm)
        except Dies:
            pass
        except BaseException as error:
            world.failed.append(error)
        finally:
            if number not in results:
                world.dies(number)
            comm.close()

    threads = [threading.Thread(target=live, args=(r,)) for r in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if world.failed:
        raise world.failed[0]
    return results, world
