"""Functions that wait for each other: one order, and no thread left whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain.comm import Communicator, run_ranks
from dtrain.parallel.lockstep import Lockstep


def lockstep(comm: Communicator, microbatches: int, function: Callable[[Lockstep, int], Any]) -> list[Any]:
    """function(lockstep, j) for each of the rank's microbatches."""
    lock = Lockstep(comm, microbatches)
    return lock.run([partial(function, lock, j) for j in lock.block], lambda k: None)


@pytest.mark.parametrize(("microbatches", "sizes"), [(1, [1]), (5, [1, 2, 3, 5]), (12, [1, 4])])
def test_every_microbatch_gets_the_rows_of_all(microbatches: int, sizes: list[int]) -> None:
    def function(lock: Lockstep, j: int) -> list[list[float]]:
        rows = lock.gather(3, np.array([j, 0.5 * j]))
        assert rows.shape == (microbatches, 2)
        return [rows[:, 0].tolist(), lock.gather(4, rows[j] + 1)[:, 1].tolist()]

    want = [[float(j) for j in range(microbatches)], [0.5 * j + 1 for j in range(microbatches)]]
    for size in sizes:
        results = run_ranks(size, lambda comm: lockstep(comm, microbatches, function))
        assert [result for rank in results for result in rank] == [want] * microbatches


def test_one_at_a_time_and_in_order() -> None:
    said: list[Any] = []

    def function(lock: Lockstep, j: int) -> bool:
        for turn in range(3):
            said.append((turn, j))
            lock.gather(turn, np.zeros(1))
        return dtrain.is_grad_enabled()

    def run(comm: Communicator) -> list[bool]:
        lock = Lockstep(comm, 3)
        with dtrain.no_grad(), np.errstate(over="raise"):
            return lock.run([partial(function, lock, j) for j in lock.block], lambda k: said.append(k))

    assert run_ranks(1, run) == [[False] * 3]
    of_turns = [thing for turn in range(3) for j in range(3) for thing in (j, (turn, j))]
    assert said == of_turns + [0, 1, 2]


def fails(function: Callable[[Lockstep, int], Any], error: type[BaseException], match: str) -> None:
    before = threading.active_count()
    with pytest.raises(error, match=match):
        run_ranks(1, lambda comm: lockstep(comm, 4, function))
    assert threading.active_count() == before


def test_what_goes_wrong_ends_all() -> None:
    ended = []

    def raises(lock: Lockstep, j: int) -> None:
        try:
            lock.gather(0, np.zeros(1))
            if j == 2:
                raise KeyError("two")
            lock.gather(1, np.zeros(1))
        finally:
            ended.append(j)

    fails(raises, KeyError, "two")
    assert sorted(ended) == [0, 1, 2, 3]
    fails(lambda lock, j: lock.gather(j // 2, np.zeros(1)), RuntimeError, "microbatch 1 at number 0, microbatch 2 at")
    fails(lambda lock, j: lock.gather(0, np.zeros(1 + j)), RuntimeError, "as many channels")
    fails(lambda lock, j: j == 3 or lock.gather(0, np.zeros(1)), RuntimeError, "microbatch 3 at its end")
    with pytest.raises(RuntimeError, match=r"at numbers \[0, 0, 1, 1\]"):
        run_ranks(4, lambda comm: lockstep(comm, 4, lambda lock, j: lock.gather(j // 2, np.zeros(1))))


def test_an_interrupt_ends_all() -> None:
    """Ctrl-C reaches the thread that waits."""

    def run(comm: Communicator) -> None:
        lock = Lockstep(comm, 3)

        def interrupt(k: int) -> None:
            if k == 1:
                raise KeyboardInterrupt

        before = threading.active_count()
        with pytest.raises(KeyboardInterrupt):
            lock.run([partial(lock.gather, 0, np.zeros(1))] * 3, interrupt)
        assert threading.active_count() == before

    run_ranks(1, run)
