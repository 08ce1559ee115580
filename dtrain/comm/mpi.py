"""Ranks are MPI processes. The first `MPICommunicator` imports mpi4py, nothing before it does."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from dtrain.comm.communicator import Array, Communicator
from dtrain.comm.window import Window, open_window

__all__ = ["MPICommunicator"]

# Messages of more than LARGE bytes go in pieces of CHUNK bytes: at twice the rate.
LARGE = 4 << 20
CHUNK = 2 << 20
# Seconds between looks at a message on the helper thread. The kernel adds its slack of 50 microseconds: 8 KB at
# 1 Gbit/s. With pauses of 400 microseconds MPICH, which sends a long message in many pieces, took four times as long.
PAUSE = 1e-6


class MPICommunicator(Communicator):
    """The ranks of an MPI communicator, MPI_COMM_WORLD by default.

    Works on duplicates of it, so that its messages meet neither those of the caller nor, in the
    helper thread, its own. Making one is therefore collective. Raises ImportError where mpi4py is
    missing and RuntimeError where MPI was not started with MPI_THREAD_MULTIPLE.
    """

    def __init__(self, mpi_comm: Any = None) -> None:
        from mpi4py import MPI

        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            library = MPI.Get_library_version().splitlines()[0].strip(" \0")
            raise RuntimeError(
                f"MPI was started without MPI_THREAD_MULTIPLE (thread level {MPI.Query_thread()}, "
                f"library {library!r}), and gradients are sent from a helper thread; leave "
                "mpi4py.rc.thread_level at 'multiple', or use an MPI that was built for threads"
            )
        self._comm = (MPI.COMM_WORLD if mpi_comm is None else mpi_comm).Dup()
        self._twin_comm = self._comm.Dup()  # now, because it is collective and `start` is not
        host = socket.gethostname()
        self._local = _ranks_on_this_host(self._comm, host)
        # A host's number is that of its first rank, until they are counted.
        firsts = self._comm.allgather((self._local.bcast(self._comm.rank), self._local.rank))
        numbers = sorted({first for first, _ in firsts})
        super().__init__(self._comm.rank, [(numbers.index(first), local) for first, local in firsts], host)
        # Made when they are first asked for: an MPI has room for a limited number of communicators.
        self._host_group: MPICommunicator | None = None
        self._lane_group: Any = ...  # not made
        self._ops = {"sum": MPI.SUM, "max": MPI.MAX, "min": MPI.MIN}
        self._in_place = MPI.IN_PLACE

    def all_gather_object(self, value: Any) -> list[Any]:
        return self._comm.allgather(value)

    def barrier(self) -> None:
        self._comm.Barrier()

    def abort(self, code: int = 1) -> None:
        self._comm.Abort(code)

    def host_group(self) -> Communicator:
        if self._host_group is None:
            self._host_group = MPICommunicator(self._local)
            self._host_group.traffic = self.traffic
        return self._host_group

    def lane_group(self) -> Communicator | None:
        from mpi4py import MPI

        number, local_rank = self.places[self.rank]
        if self._lane_group is ...:
            lane = self._comm.Split(local_rank if local_rank < self.lanes else MPI.UNDEFINED, number)
            self._lane_group = None if lane == MPI.COMM_NULL else MPICommunicator(lane)
            if self._lane_group is not None:
                self._lane_group.traffic = self.traffic
        return self._lane_group

    def window(self, nbytes: int, patient: bool = False) -> Window | None:
        return open_window(self, nbytes, patient) if self.size == self.local_size > 1 else None

    def _twin(self) -> Communicator:
        return _Twin(self)

    def _broadcast(self, flat: Array, root: int) -> None:
        for chunk in _chunks(flat):
            self._comm.Bcast(chunk, root)

    def _allreduce(self, flat: Array, op: str) -> None:
        for chunk in _chunks(flat):
            self._comm.Allreduce(self._in_place, chunk, self._ops[op])

    def _reduce_scatter(self, flat: Array, cuts: list[int]) -> Array:
        counts = _counts(cuts)
        part = np.empty(counts[self.rank], flat.dtype)
        self._comm.Reduce_scatter(flat, part, counts)
        return part

    def _all_gather(self, flat: Array, cuts: list[int]) -> None:
        if self.patient:
            _wait_patiently(self._comm.Iallgatherv(self._in_place, [flat, _counts(cuts)]))
        else:
            self._comm.Allgatherv(self._in_place, [flat, _counts(cuts)])

    def _all_to_all(self, send: Array, send_counts: list[int], recv: Array, recv_counts: list[int]) -> None:
        if self.patient:
            _wait_patiently(self._comm.Ialltoallv([send, send_counts], [recv, recv_counts]))
        else:
            self._comm.Alltoallv([send, send_counts], [recv, recv_counts])


class _Twin(MPICommunicator):
    """The same ranks on the duplicate that belongs to the helper thread."""

    def __init__(self, main: MPICommunicator) -> None:
        self.__dict__.update(main.__dict__)
        self._comm = main._twin_comm
        self.patient = True

    def start(self, *args: Any) -> Any:
        raise RuntimeError("a started function cannot start another one; call the blocking form")


def _ranks_on_this_host(comm: Any, host: str) -> Any:
    """The ranks that share memory with this one and see the same host name.

    Either alone is wrong somewhere: containers share a host name without sharing memory, and hosts
    that are emulated on one machine share memory.
    """
    from mpi4py import MPI

    shared = comm.Split_type(MPI.COMM_TYPE_SHARED, comm.rank)
    local = shared.Split(shared.allgather(host).index(host), comm.rank)
    shared.Free()
    return local


def _wait_patiently(request: Any) -> None:
    """No MPI makes progress by itself, and its own wait would take a core from the main thread."""
    while not request.Test():
        time.sleep(PAUSE)


def _counts(cuts: list[int]) -> list[int]:
    return [b - a for a, b in zip(cuts, cuts[1:], strict=False)]


def _chunks(flat: Array) -> Iterator[Array]:
    if flat.nbytes <= LARGE:
        yield flat
        return
    step = CHUNK // flat.itemsize
    for start in range(0, flat.size, step):
        yield flat[start : start + step]
