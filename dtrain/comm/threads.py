"""Ranks are threads of one process, in plain NumPy: the naive twin of the MPI communicator.

Obviously right and not fast. Tests run any number of ranks with it, with no MPI.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from dtrain.comm.communicator import Array, Communicator
from dtrain.comm.window import Window

__all__ = ["ThreadCommunicator", "run_ranks"]

T = TypeVar("T")

REDUCE: dict[str, Callable[..., Array]] = {"sum": np.add, "max": np.maximum, "min": np.minimum}


class Meeting:
    """A place where `size` threads show each other a value."""

    def __init__(self, size: int) -> None:
        self.values: list[Any] = [None] * size
        self.barrier = threading.Barrier(size)
        self.parts: list[Meeting] = []

    def part(self, size: int) -> Meeting:
        """A meeting of its own for some of the ranks, or for the helper threads of all."""
        self.parts.append(Meeting(size))
        return self.parts[-1]

    def abort(self) -> None:
        """Whoever waits here, now or later, gets a BrokenBarrierError."""
        self.barrier.abort()
        for part in self.parts:
            part.abort()


class ThreadCommunicator(Communicator):
    """Rank `rank` of a meeting; `hosts` names the host of every rank: tests can have many."""

    def __init__(self, rank: int, meeting: Meeting, twin: Meeting, hosts: Sequence[str]) -> None:
        numbers = list(dict.fromkeys(hosts))
        places = [(numbers.index(host), list(hosts[:r]).count(host)) for r, host in enumerate(hosts)]
        super().__init__(rank, places, hosts[rank])
        self._meeting, self._twin_meeting, self._hosts = meeting, twin, hosts

    @contextmanager
    def _show(self, value: Any) -> Iterator[list[Any]]:
        """The values of all ranks; no rank leaves before all have finished with them."""
        self._meeting.values[self.rank] = value
        self._meeting.barrier.wait()
        yield list(self._meeting.values)
        self._meeting.barrier.wait()

    def all_gather_object(self, value: Any) -> list[Any]:
        with self._show(pickle.dumps(value)) as values:
            return [pickle.loads(text) for text in values]

    def barrier(self) -> None:
        with self._show(None):
            pass

    def abort(self, code: int = 1) -> None:
        self._meeting.abort()
        raise SystemExit(code)

    def host_group(self) -> Communicator:
        return self._group([r for r, host in enumerate(self._hosts) if host == self.host])

    def lane_group(self) -> Communicator | None:
        lane = [r for r, (_, local_rank) in enumerate(self.places) if local_rank == self.local_rank]
        return self._group(sorted(lane, key=lambda r: self.places[r]), self.local_rank < self.lanes)

    def _group(self, ranks: list[int], member: bool = True) -> Any:
        first = self.rank == ranks[0] and member
        made = (self._meeting.part(len(ranks)), self._meeting.part(len(ranks))) if first else None
        with self._show(made) as values:
            if not member:
                return None
            hosts = [self._hosts[r] for r in ranks]
            meeting, twin = values[ranks[0]]
            group = ThreadCommunicator(ranks.index(self.rank), meeting, twin, hosts)
            group.traffic = self.traffic
            return group

    def window(self, nbytes: int, patient: bool = False) -> Window | None:
        with self._show(np.zeros(nbytes, np.uint8)) as parts:
            return Window(parts, self._meeting.barrier.wait)

    def _twin(self) -> Communicator:
        return ThreadCommunicator(self.rank, self._twin_meeting, self._twin_meeting, self._hosts)

    def _broadcast(self, flat: Array, root: int) -> None:
        with self._show(flat) as arrays:
            if self.rank != root:
                flat[:] = arrays[root]

    def _allreduce(self, flat: Array, op: str) -> None:
        with self._show(flat) as arrays:
            total = arrays[0].copy()
            for other in arrays[1:]:
                REDUCE[op](total, other, out=total)
        flat[:] = total

    def _reduce_scatter(self, flat: Array, cuts: list[int]) -> Array:
        total = flat.copy()
        self._allreduce(total, "sum")
        return total[cuts[self.rank] : cuts[self.rank + 1]].copy()

    def _all_gather(self, flat: Array, cuts: list[int]) -> None:
        with self._show(flat) as arrays:
            for r, (start, stop) in enumerate(zip(cuts, cuts[1:], strict=False)):
                if r != self.rank:
                    flat[start:stop] = arrays[r][start:stop]

    def _all_to_all(self, send: Array, send_counts: list[int], recv: Array, recv_counts: list[int]) -> None:
        with self._show((send, send_counts)) as others:
            parts = []
            for array, counts in others:
                start = sum(counts[: self.rank])
                parts.append(array[start : start + counts[self.rank]])
            sizes = [part.size for part in parts]
            if sizes != recv_counts:
                raise ValueError(f"rank {self.rank} expects {recv_counts} items, is sent {sizes}")
            recv[:] = np.concatenate(parts)


def run_ranks(size: int, fn: Callable[[Communicator], T], *, hosts: Sequence[str] | None = None) -> list[T]:
    """Run fn(comm) on `size` threads that are each other's ranks; returns their results by rank.

    An exception on any rank ends all of them and is raised here. `hosts` names the pretended host
    of every rank; default: one host for all.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    hosts = list(hosts) if hosts is not None else ["localhost"] * size
    if len(hosts) != size:
        raise ValueError(f"hosts must name {size} hosts, one per rank, got {len(hosts)}: {hosts}")
    meeting = Meeting(size)
    twin = meeting.part(size)
    results: list[Any] = [None] * size
    errors: list[tuple[int, BaseException]] = []

    def fail(rank: int, error: BaseException) -> None:
        # Append, then abort, which makes the others fail: the first error is the cause.
        errors.append((rank, error))
        meeting.abort()

    def work(rank: int) -> None:
        comm = ThreadCommunicator(rank, meeting, twin, hosts)
        comm.on_helper_error = lambda error: fail(rank, error)
        try:
            results[rank] = fn(comm)
        except BaseException as error:
            fail(rank, error)
        finally:
            comm.close()

    threads = [threading.Thread(target=work, args=(r,), name=f"rank-{r}") for r in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        rank, error = errors[0]
        error.add_note(f"(on rank {rank} of {size})")
        raise error
    return results
