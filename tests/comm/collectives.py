"""What every communicator must do, as functions of a communicator of any size: one body for all.

`tests/comm` runs them on one process and on threads, `tests/mpi` on MPI ranks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from dtrain.comm import Communicator, shares

__all__ = ["CHECKS"]

SIZES = (0, 1, 7, (1 << 20) + 3)  # nothing, fewer than ranks, uneven, several chunks
DTYPES = ("float32", "float64", "int64")

CHECKS: list[Callable[[Communicator], None]] = []


def check(function: Callable[[Communicator], None]) -> Callable[[Communicator], None]:
    CHECKS.append(function)
    return function


def arrays(rank: int) -> list[np.ndarray]:
    """Small whole numbers, different on every rank, so that any order of summation is exact."""
    return [((np.arange(n) + rank) % 1000).astype(dtype) for n in SIZES for dtype in DTYPES]


def by_rank(comm: Communicator) -> list[list[np.ndarray]]:
    """[array][rank]"""
    return [list(of_ranks) for of_ranks in zip(*map(arrays, range(comm.size)), strict=True)]


@check
def ranks_are_numbered(comm: Communicator) -> None:
    assert comm.all_gather_object(comm.rank) == list(range(comm.size))
    assert 0 <= comm.local_rank < comm.local_size <= comm.size
    places = comm.all_gather_object((comm.host, comm.local_rank))
    assert len(set(places)) == comm.size
    assert comm.microbatches == comm.size


@check
def broadcast(comm: Communicator) -> None:
    for root in (0, comm.size - 1):
        for mine, of_ranks in zip(arrays(comm.rank), by_rank(comm), strict=True):
            comm.broadcast_(mine, root)
            np.testing.assert_array_equal(mine, of_ranks[root])
    assert comm.broadcast_object({"rank": comm.rank}, comm.size - 1) == {"rank": comm.size - 1}


@check
def allreduce(comm: Communicator) -> None:
    for op, expected in (("sum", np.sum), ("max", np.max), ("min", np.min)):
        for mine, of_ranks in zip(arrays(comm.rank), by_rank(comm), strict=True):
            comm.allreduce_(mine, op)
            np.testing.assert_array_equal(mine, expected(of_ranks, axis=0))


@check
def shapes_and_flags(comm: Communicator) -> None:
    x = np.full((2, 3), comm.rank, np.float32)
    comm.allreduce_(x)
    assert x.shape == (2, 3) and (x == comm.size * (comm.size - 1) / 2).all()
    point = np.array(1.0)
    comm.allreduce_(point)
    assert point == comm.size
    flags = np.array([comm.rank == 0, True, False])
    comm.allreduce_(flags, "max")
    assert flags.tolist() == [True, True, False]


@check
def reduce_scatter(comm: Communicator) -> None:
    for mine, of_ranks in zip(arrays(comm.rank), by_rank(comm), strict=True):
        before = mine.copy()
        cuts = shares(mine.size, comm.size)
        part = comm.reduce_scatter(mine)
        total = np.sum(of_ranks, axis=0)
        np.testing.assert_array_equal(part, total[cuts[comm.rank] : cuts[comm.rank + 1]])
        np.testing.assert_array_equal(mine, before)


@check
def all_gather(comm: Communicator) -> None:
    for mine, of_ranks in zip(arrays(comm.rank), by_rank(comm), strict=True):
        np.testing.assert_array_equal(comm.all_gather(mine), np.stack(of_ranks))
        cuts = shares(mine.size, comm.size)
        buffer = np.zeros_like(mine)
        part = slice(cuts[comm.rank], cuts[comm.rank + 1])
        buffer[part] = of_ranks[0][part]
        comm.all_gather_(buffer, cuts)
        np.testing.assert_array_equal(buffer, of_ranks[0])
    # Ranks that have nothing to say.
    buffer = np.full(5, comm.rank, np.int32)
    comm.all_gather_(buffer, [0] * comm.size + [5])
    assert (buffer == comm.size - 1).all()


@check
def all_to_all(comm: Communicator) -> None:
    # Rank s sends s + d items of value 10s + d to rank d: rank 0 sends itself none.
    ranks = range(comm.size)
    for dtype in DTYPES:
        send_counts = [comm.rank + d for d in ranks]
        recv_counts = [s + comm.rank for s in ranks]
        send = np.repeat([10 * comm.rank + d for d in ranks], send_counts).astype(dtype)
        expected = np.repeat([10 * s + comm.rank for s in ranks], recv_counts).astype(dtype)
        got = comm.all_to_all(send, send_counts, recv_counts)
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == dtype
        out = np.empty_like(expected)
        assert comm.all_to_all(send, send_counts, recv_counts, out) is out
        np.testing.assert_array_equal(out, expected)


@check
def started_collectives_do_not_meet_those_of_the_main_thread(comm: Communicator) -> None:
    started = [np.full(1001, comm.rank + i, np.float32) for i in range(20)]
    requests = [comm.iallreduce_(x) for x in started]
    total = comm.size * (comm.size - 1) // 2
    for i in range(20):
        x = np.full(1001, comm.rank * i, np.float32)
        comm.allreduce_(x)
        assert (x == total * i).all()
    for i, (request, x) in enumerate(zip(requests, started, strict=True)):
        assert request.wait() is None and request.done()
        assert (x == total + comm.size * i).all()
    assert (comm.iall_gather(np.array(comm.rank)).wait() == np.arange(comm.size)).all()
    assert comm.ireduce_scatter(np.ones(comm.size)).wait() == [comm.size]


@check
def started_functions_run_in_order(comm: Communicator) -> None:
    order: list[int] = []

    def work(twin: Communicator, i: int) -> tuple[int, int]:
        order.append(i)
        return twin.rank, twin.all_gather_object(i)[-1]

    requests = [comm.start(work, i) for i in range(10)]
    assert [r.wait() for r in reversed(requests)] == [(comm.rank, i) for i in reversed(range(10))]
    assert order == list(range(10))
    comm.close()
    assert comm.start(work, 10).wait() == (comm.rank, 10)
    comm.close()


@check
def no_thread_before_the_first_start(comm: Communicator) -> None:
    comm.close()
    name = f"comm-rank-{comm.rank}"
    assert name not in [thread.name for thread in threading.enumerate()]


@check
def groups(comm: Communicator) -> None:
    hosts = comm.all_gather_object(comm.host)
    here = comm.host_group()
    assert (here.rank, here.size) == (comm.local_rank, comm.local_size)
    x = np.array([1])
    here.allreduce_(x)
    assert x == comm.local_size
    assert comm.all_gather_object(comm.places[comm.rank]) == comm.places
    lane = comm.lane_group()
    assert (lane is not None) == (comm.local_rank < comm.lanes)
    if lane is not None:
        assert lane.all_gather_object(comm.host) == list(dict.fromkeys(hosts))
        assert lane.local_size == 1


@check
def bytes_are_counted(comm: Communicator) -> None:
    others = comm.size - 1
    x = np.zeros(12 * comm.size, np.float32)  # 48 bytes a rank
    part, cuts = [12] * comm.size, shares(x.size, comm.size)
    lane = comm.lane_group()
    for call, nbytes in (
        (lambda: comm.broadcast_(x), 0 if comm.rank else x.nbytes * others),
        (lambda: comm.allreduce_(x), 2 * 48 * others),
        (lambda: comm.reduce_scatter(x), 48 * others),
        (lambda: comm.all_gather(x[:12]), 48 * others),
        (lambda: comm.all_gather_(x, cuts), 48 * others),
        (lambda: comm.iall_gather_(x, cuts).wait(), 48 * others),
        (lambda: comm.all_to_all(x, part, part), 48 * others),
        (lambda: lane and lane.all_gather(x[:12]), 48 * (lane.size - 1) if lane else 0),
    ):
        before = comm.traffic.bytes_sent
        call()  # type: ignore[no-untyped-call]
        assert comm.traffic.bytes_sent - before == nbytes
    comm.close()


@check
def bad_arrays_are_refused(comm: Communicator) -> None:
    frozen = np.ones(3)
    frozen.flags.writeable = False
    for error, message, x in (
        (TypeError, "expected a NumPy array, got builtins.list", [1.0]),
        (TypeError, "cannot send dtype float16", np.ones(3, np.float16)),
        (TypeError, "cannot send dtype object", np.array([None])),
        (TypeError, "cannot send dtype >f4", np.ones(3, ">f4")),
        (ValueError, "not C-contiguous", np.ones((4, 4))[:, ::2]),
        (ValueError, "read-only", frozen),
    ):
        with pytest.raises(error, match=message):
            comm.allreduce_(x)  # type: ignore[arg-type]
    x = np.ones(4)
    with pytest.raises(ValueError, match="op 'mean' is unknown; use one of sum, max, min"):
        comm.allreduce_(x, "mean")
    with pytest.raises(TypeError, match="cannot sum dtype bool"):
        comm.allreduce_(x > 0)
    with pytest.raises(ValueError, match=f"got {comm.size}"):
        comm.broadcast_(x, comm.size)
    with pytest.raises(ValueError, match="from 0 to the buffer's size 4"):
        comm.all_gather_(x, shares(5, comm.size))
    with pytest.raises(ValueError, match="send_counts must be .* add up to the array's size 4"):
        comm.all_to_all(x, [4] * comm.size + [0], [4] * comm.size)
    with pytest.raises(ValueError, match="at least"):
        comm.settle_microbatches(comm.size - 1)


@check
def settling_microbatches_tells_the_job(comm: Communicator) -> None:
    told: list[int] = []
    comm.on_microbatches = told.append
    comm.settle_microbatches(2 * comm.size)
    assert comm.microbatches == 2 * comm.size and told == [2 * comm.size]
    comm.on_microbatches = None
    comm.settle_microbatches(comm.size)
