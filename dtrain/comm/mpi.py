"""Ranks are MPI processes. The first `MPICommunicator` imports mpi4py, nothing before it does."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np

from dtrain.comm.communicator import Array, Communicator
from dtrain.comm.mail import Mail
from dtrain.comm.waits import Calls
from dtrain.comm.window import Window, open_window

__all__ = ["MPICommunicator"]

# Messages of more than LARGE bytes go in pieces of CHUNK bytes: at twice the rate.
LARGE = 4 << 20
CHUNK = 2 << 20
# Seconds between looks at a message that others' work is not to wait for, at most; and as a part of the time that it
# has taken. Each look costs the main thread about 20 microseconds, and the kernel keeps what comes meanwhile.
PAUSE = 4e-4
PAUSE_PART = 0.25
# Seconds after which Open MPI is waited in instead: what a thread only looked at stood still there, now and then, while
# another thread waited in a collective (5.0.11, between hosts, 2 of 12 jobs).
STILL = 1.0


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
        comm = (MPI.COMM_WORLD if mpi_comm is None else mpi_comm).Dup()
        host = socket.gethostname()
        local = _ranks_on_this_host(comm, host)
        # A host's number is that of its first rank, until they are counted.
        of_ranks = comm.allgather((local.bcast(comm.rank), local.rank, host, os.getpid()))
        numbers = sorted({first for first, _, _, _ in of_ranks})
        places = [(numbers.index(first), local_rank) for first, local_rank, _, _ in of_ranks]
        super().__init__(comm.rank, places, host)
        #: Host and process of every rank.
        self.processes = [(host, pid) for _, _, host, pid in of_ranks]
        self._use(comm, comm.Dup(), local)
        self._note("all ranks", range(self.size))
        self._ops = {"sum": MPI.SUM, "max": MPI.MAX, "min": MPI.MIN}
        self._in_place = MPI.IN_PLACE
        self._is_open_mpi = "Open MPI" in MPI.Get_library_version()
        #: Whether who is patient looks at a message now and then. Where Open MPI was told to give way (by
        #: launch/runtime.py), a look does so too, and the next comes too late: there patience is a collective's.
        told = os.environ.get("OMPI_MCA_mpi_yield_when_idle") == "1"  # noqa: SIM112  (its name)
        gives_way = self._is_open_mpi and told
        self._looks = not any(comm.allgather(gives_way))

    def _use(self, comm: Any, twin: Any, local: Any) -> None:
        """Send by these communicators of mpi4py: the main thread's, the helper thread's, that of this host's ranks."""
        # The twin is there from the start, because making it is collective and `start` is not.
        self._comm, self._twin_comm, self._local = comm, twin, local
        # Made when they are first asked for: an MPI has room for a limited number of communicators.
        self._host_group: MPICommunicator | None = None
        self._lane_group: Any = ...  # not made

    def _note(self, name: str, ranks: Sequence[int]) -> None:
        """Keep account of the collectives of these ranks (as the job numbers them) under this name."""
        self.name, self.ranks = name, ranks
        self._calls, self._twin_calls = self._new_calls(ranks), self._new_calls(ranks)
        self.waits.add(name, self._calls)
        self.waits.add(f"{name}, helper thread", self._twin_calls)

    def _new_calls(self, ranks: Sequence[int]) -> Calls:
        return Calls(ranks)

    def _group(self, mpi_comm: Any, name: str, members: Sequence[int], on_one_host: bool) -> MPICommunicator:
        """The group of some of these ranks, all on one host or each on another; it is told apart in `waits`."""
        from mpi4py import MPI

        group = copy(self)
        places = [(0, i) if on_one_host else (i, 0) for i in range(len(members))]
        group._take_place(mpi_comm.rank, places)
        group.processes = [self.processes[r] for r in members]
        group.microbatches, group._helper, group.on_microbatches = group.size, None, None
        group._use(mpi_comm, mpi_comm.Dup(), mpi_comm if on_one_host else MPI.COMM_SELF)
        group._note(name, [self.ranks[r] for r in members])
        return group

    def all_gather_object(self, value: Any) -> list[Any]:
        with self._calls("all_gather_object"):
            return self._comm.allgather(value)

    def barrier(self) -> None:
        with self._calls("barrier"):
            self._comm.Barrier()

    def is_late(self, rank: int) -> None:
        """This rank waits in shared memory for that one, which does not come."""

    def abort(self, code: int = 1) -> None:
        self._comm.Abort(code)

    def open_host_memory(self) -> None:
        """When this returns all ranks of this host have opened the memory in which the MPI sends between them."""
        self._local.alltoall([None] * self._local.size)  # Open MPI opens a rank's with the first message to it
        self._local.Barrier()

    def host_group(self) -> Communicator:
        if self._host_group is None:
            number = self.places[self.rank][0]
            members = [r for r, (host, _) in enumerate(self.places) if host == number]
            with self._calls("host_group"):
                self._host_group = self._group(self._local, f"host {number} ({self.host})", members, True)
        return self._host_group

    def lane_group(self) -> Communicator | None:
        from mpi4py import MPI

        number, local_rank = self.places[self.rank]
        if self._lane_group is ...:
            members = [r for r, (_, local) in enumerate(self.places) if local == local_rank]
            members.sort(key=lambda r: self.places[r])
            with self._calls("lane_group"):
                lane = self._comm.Split(local_rank if local_rank < self.lanes else MPI.UNDEFINED, number)
                none = lane == MPI.COMM_NULL
                self._lane_group = None if none else self._group(lane, f"lane {local_rank}", members, False)
                if not none:
                    self._lane_group.patient = True  # for all who use it: a message is sent and received in one way
        return self._lane_group

    def mail(self) -> Mail:
        """Messages between any two of these ranks that nobody waits for. All ranks call this."""
        return Mail(self._comm)

    def window(self, nbytes: int, patient: bool = False) -> Window | None:
        if self.size == 1:  # the only rank of a host, beside hosts with several
            return Window([np.zeros(nbytes, np.uint8)], lambda: None)
        return open_window(self, nbytes, patient) if self.size == self.local_size else None

    def _twin(self) -> Communicator:
        return _Twin(self)

    def _broadcast(self, flat: Array, root: int) -> None:
        with self._calls("broadcast_", flat):
            for chunk in _chunks(flat):
                self._comm.Bcast(chunk, root)

    def _allreduce(self, flat: Array, op: str) -> None:
        with self._calls("allreduce_", flat):
            for chunk in _chunks(flat):
                self._comm.Allreduce(self._in_place, chunk, self._ops[op])

    def _reduce_scatter(self, flat: Array, cuts: list[int]) -> Array:
        counts = _counts(cuts)
        part = np.empty(counts[self.rank], flat.dtype)
        with self._calls("reduce_scatter", flat, part):
            self._comm.Reduce_scatter(flat, part, counts)
        return part

    def _all_gather(self, flat: Array, cuts: list[int]) -> None:
        with self._calls("all_gather", flat):
            if self.patient and self._looks:
                parts = _parts(flat, _counts(cuts))
                self._trade([parts[self.rank]] * self.size, parts)
            else:
                self._comm.Allgatherv(self._in_place, [flat, _counts(cuts)])

    def _all_to_all(self, send: Array, send_counts: list[int], recv: Array, recv_counts: list[int]) -> None:
        with self._calls("all_to_all", send, recv):
            if self.patient and self._looks:
                give, take = _parts(send, send_counts), _parts(recv, recv_counts)
                take[self.rank][...] = give[self.rank]
                self._trade(give, take)
            else:
                self._comm.Alltoallv([send, send_counts], [recv, recv_counts])

    def _trade(self, give: list[Array], take: list[Array]) -> None:
        """give[r] goes to rank r, and take[r] comes from there; meanwhile the core is left to others.

        No MPI makes progress by itself, and its own wait would take the core from the main thread.
        """
        others = [r for r in range(self.size) if r != self.rank]
        requests = [self._comm.Irecv(take[r], r) for r in others if take[r].size]
        requests += [self._comm.Isend(give[r], r) for r in others if give[r].size]
        start = time.perf_counter()
        while requests := [request for request in requests if not request.Test()]:
            waited = time.perf_counter() - start
            if waited > STILL and self._is_open_mpi:
                from mpi4py import MPI

                MPI.Request.Waitall(requests)
                return
            time.sleep(min(PAUSE, PAUSE_PART * waited))


class _Twin(MPICommunicator):
    """The same ranks on the duplicate that belongs to the helper thread."""

    def __init__(self, main: MPICommunicator) -> None:
        self.__dict__.update(main.__dict__)
        self._comm, self._calls = main._twin_comm, main._twin_calls
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


def _counts(cuts: list[int]) -> list[int]:
    return [b - a for a, b in zip(cuts, cuts[1:], strict=False)]


def _parts(flat: Array, counts: list[int]) -> list[Array]:
    """The parts of these sizes, one after the other."""
    return np.split(flat, np.cumsum(counts)[:-1])


def _chunks(flat: Array) -> Iterator[Array]:
    if flat.nbytes <= LARGE:
        yield flat
        return
    step = CHUNK // flat.itemsize
    for start in range(0, flat.size, step):
        yield flat[start : start + step]
