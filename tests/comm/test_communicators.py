"""The shared checks on one process and on threads, and how threads of a run fail together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dtrain.comm import Communicator, SingleCommunicator, run_ranks, shares
from tests.comm.collectives import CHECKS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_single(check: Callable[[Communicator], None]) -> None:
    check(SingleCommunicator())


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_threads(check: Callable[[Communicator], None], size: int) -> None:
    run_ranks(size, check)


def test_threads_on_several_hosts() -> None:
    def places(comm: Communicator) -> tuple[int, int, int | None]:
        lane = comm.lane_group()
        here = comm.host_group()
        x = np.array([comm.rank])
        here.allreduce_(x)
        return int(x[0]), here.size, None if lane is None else lane.size

    # Hosts a: ranks 0, 2, 3; b: ranks 1, 4.
    places_by_rank = run_ranks(5, places, hosts=["a", "b", "a", "a", "b"])
    assert places_by_rank == [(5, 3, 2), (5, 2, 2), (5, 3, 2), (5, 3, None), (5, 2, 2)]


@pytest.mark.parametrize("where", ["main", "helper", "group"])
def test_the_first_exception_ends_all_ranks(where: str) -> None:
    def fail(comm: Communicator) -> None:
        raise KeyError("rank 1 has no such thing")

    def work(comm: Communicator) -> None:
        group = comm.host_group()
        if comm.rank == 1:
            if where == "helper":
                comm.start(fail)
            else:
                fail(comm)
        (group if where == "group" else comm).barrier()

    with pytest.raises(KeyError, match="no such thing") as caught:
        run_ranks(3, work)
    assert caught.value.__notes__ == ["(on rank 1 of 3)"]


def test_wait_raises_with_the_traceback_of_the_function() -> None:
    def divide(comm: Communicator, x: int) -> float:
        return 1 / x

    comm = SingleCommunicator()
    request = comm.start(divide, 0)
    assert request.done()
    with pytest.raises(ZeroDivisionError) as caught:
        request.wait()
    assert caught.traceback[-1].name == "divide"
    assert comm.start(divide, 4).wait() == 0.25


@pytest.mark.parametrize("n", [0, 1, 7, 100])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_shares_are_nearly_equal(n: int, size: int) -> None:
    cuts = shares(n, size)
    parts = np.diff(cuts)
    assert len(cuts) == size + 1 and cuts[0] == 0 and cuts[-1] == n
    assert parts.max() - parts.min() <= 1


def test_run_ranks_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        run_ranks(0, print)
    with pytest.raises(ValueError, match="hosts must name 2 hosts"):
        run_ranks(2, print, hosts=["a"])
