"""Memory that the ranks of a host share: gradients are summed where backward has put them.

The memory has no name in any file system: one rank makes it (memfd_create), the others open it
through /proc, and the kernel frees it with the last process, however that ends.
"""

from __future__ import annotations

import mmap
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dtrain.comm.waits import State

if TYPE_CHECKING:
    from dtrain.comm.mpi import MPICommunicator

__all__ = ["Window", "open_window"]

Bytes = NDArray[np.uint8]

_LINE = 64  # bytes of a cache line: each rank's counter has one of its own
_SPINS = 500  # looks at a counter before the core is offered to others: about 50 microseconds
_YIELDS = 2000  # offers before sleeping instead
_LATE = 64  # looks, while sleeping, from one look at the process to the next: about 10 milliseconds


class Window:
    """`parts[r]`, (nbytes,) of uint8, is the part of rank r; every rank may read and write all of them.

    `meet()` returns when all ranks have called it; what they wrote before is then seen by all.
    """

    def __init__(self, parts: list[Bytes], meet: Callable[[], Any]) -> None:
        self.parts, self.meet = parts, meet


class _Meeting:
    """Ranks meet by counting in shared memory: without a system call, unless somebody is late.

    A store before the count is seen before the count on processors that keep stores in order (x86-64).
    """

    def __init__(self, memory: mmap.mmap, comm: MPICommunicator, patient: bool) -> None:
        rank, size, self.ranks, self.is_late = comm.rank, comm.size, comm.ranks, comm.is_late
        self.counters = memoryview(memory).cast("q")
        self.mine = rank * (_LINE // 8)
        self.others = [r * (_LINE // 8) for r in range(size) if r != rank]
        self.meetings = 0
        # With more ranks than cores the one that is waited for may need this one's core.
        self.spins = _SPINS if size <= (os.cpu_count() or 1) and not patient else 0
        self.yields = 0 if patient else _YIELDS

    def meet(self) -> None:
        counters = self.counters
        self.meetings = number = self.meetings + 1
        counters[self.mine] = number
        for other in self.others:
            looks = 0
            while counters[other] < number:
                looks += 1
                if looks > self.spins + self.yields:
                    time.sleep(50e-6)
                    if looks % _LATE == 0:
                        self.is_late(other // (_LINE // 8))
                elif looks > self.spins:
                    os.sched_yield()

    def state(self) -> State:
        number = self.meetings
        missing = [rank for i, rank in enumerate(self.ranks) if self.counters[i * (_LINE // 8)] < number]
        return State(number, "meeting", bool(missing), self.ranks, missing)


def open_window(comm: MPICommunicator, nbytes: int, patient: bool = False) -> Window | None:
    """A window of `nbytes` for each of comm's ranks, which are all on this host; all of them call this.

    None, on every rank, where the memory cannot be had; rank 0 says why.
    """
    header = _LINE * comm.size
    room = -(-nbytes // _LINE) * _LINE
    total = header + room * comm.size
    error, file, memory = None, -1, None
    try:
        if platform.machine() not in ("x86_64", "AMD64"):
            raise OSError(f"the order of stores of {platform.machine()} is not relied on")
        if comm.rank == 0:
            file = os.memfd_create("dtrain-window")
            os.ftruncate(file, total)
    except (OSError, AttributeError) as problem:
        error = str(problem)
    try:
        pid, theirs = comm.broadcast_object((os.getpid(), file))
        if theirs >= 0:
            try:
                own = os.open(f"/proc/{pid}/fd/{theirs}", os.O_RDWR)
                memory = mmap.mmap(own, total)
                os.close(own)
            except OSError as problem:
                error = str(problem)
        errors = [e for e in comm.all_gather_object(error) if e]
    finally:
        if file >= 0:
            os.close(file)
    if errors or memory is None:
        if comm.rank == 0:
            print(f"dtrain: the ranks of {comm.host} cannot share memory ({errors[0]}); MPI is used", file=sys.stderr)
        return None
    whole = np.frombuffer(memory, np.uint8)
    parts = [whole[header + r * room : header + r * room + nbytes] for r in range(comm.size)]
    meeting = _Meeting(memory, comm, patient)
    comm.waits.add(f"memory of {comm.name}", meeting)
    return Window(parts, meeting.meet)
