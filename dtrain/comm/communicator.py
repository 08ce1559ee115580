"""What every communicator can do with C-contiguous NumPy arrays; a trailing _ works in place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from dtrain.comm.lost import RankLost
from dtrain.comm.request import Helper, Request
from dtrain.comm.traffic import Traffic
from dtrain.comm.waits import Waits
from dtrain.comm.window import Window

__all__ = ["Array", "Communicator", "shares"]

Array = NDArray[Any]
T = TypeVar("T")

OPS = ("sum", "max", "min")
# float16 is missing on purpose: not every MPI can add it, and a sum of many ranks overflows it.
DTYPES = frozenset(np.dtype(code) for code in "fdbhiqBHIQ?")


def shares(n: int, size: int) -> list[int]:
    """Boundaries of `size` nearly equal parts of n items: part r is [cuts[r], cuts[r+1])."""
    return [n * r // size for r in range(size + 1)]


class Communicator(ABC):
    """A group of ranks that exchange arrays. Every rank calls the same methods in the same order.

    Attributes: `rank` of `size`; `local_rank` of `local_size` among the ranks on this `host` (a
    host name). `places[r]` is (number of the host, local rank) of rank r; hosts are numbered in the
    order of their first ranks. `microbatches` is the number of microbatches in a step; it equals
    `size` until `settle_microbatches` says otherwise. `traffic.bytes_sent` counts what this rank has
    sent in messages, and `waits` knows what it waits for, on the helper thread and in its groups too.

    Methods check the arrays of this rank (type, dtype, contiguity, room), not whether ranks agree:
    the latter would cost a message. A method that starts with `i` starts and returns a `Request`.
    """

    def __init__(self, rank: int, places: Sequence[tuple[int, int]], host: str) -> None:
        self._take_place(rank, places)
        self.host = host
        self.microbatches = self.size
        #: Threads per rank; None where no job has set them.
        self.threads: int | None = None
        #: A signal has asked the job to end after the present step; the step's gradients carry it to all ranks.
        self.stop_requested = False
        #: Whether the ranks that are left can go on when others die; see `attempt`.
        self.survives = False
        #: Grows when ranks are lost and the others go on; what was kept in shares of the ranks is then incomplete.
        self.generation = 0
        #: Grows when a step that was begun is to be done again, because ranks were lost in it; a loader looks at it.
        self.redone = 0
        #: The models that are trained over these ranks.
        self.models: WeakSet[Any] = WeakSet()
        #: Whether a wait for the others is to leave the core to whoever computes: on a helper thread. The same on all
        #: ranks: a transport may then use other calls, which do not meet the usual ones.
        self.patient = False
        #: Called with M when M is settled; a job installs it to set the threads per rank.
        self.on_microbatches: Callable[[int], None] | None = None
        #: Called with the threads per rank when a checkpoint settles them.
        self.on_threads: Callable[[int], None] | None = None
        #: Called with True when a job can be asked to stop, because it would write a checkpoint, False when no more.
        self.on_stoppable: Callable[[bool], None] | None = None
        #: Called on the helper thread with what a started function raised and nobody heard of; a job ends there.
        self.on_helper_error: Callable[[BaseException], None] | None = None
        self.traffic = Traffic()
        self.waits = Waits()
        self._helper: Helper | None = None

    def _take_place(self, rank: int, places: Sequence[tuple[int, int]]) -> None:
        self.rank, self.size, self.places = rank, len(places), list(places)
        #: The same ranks by NCCL (dtrain/comm/nccl.py), where each has a GPU of its own and a job has connected them.
        self.nccl: Any = None
        self.local_rank = places[rank][1]
        self.local_size = sum(number == places[rank][0] for number, _ in places)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rank {self.rank} of {self.size}, on {self.host})"

    def settle_microbatches(self, microbatches: int) -> None:
        """From now on a step has this many microbatches."""
        if microbatches < self.size:
            raise ValueError(
                f"{microbatches} microbatches cannot be shared by {self.size} ranks; "
                f"use at least {self.size} microbatches or at most {microbatches} ranks"
            )
        self.microbatches = microbatches
        if self.on_microbatches is not None:
            self.on_microbatches(microbatches)

    def settle_threads(self, threads: int) -> None:
        """From now on a rank computes with this many threads."""
        self.threads = threads
        if self.on_threads is not None:
            self.on_threads(threads)

    # Blocking collectives

    def broadcast_(self, x: Array, root: int = 0) -> None:
        """x of rank `root` replaces x on every rank. Any shape, the same on all ranks."""
        self._check_root(root)
        flat = _flat(x, write=True)
        if self.rank == root:
            self.traffic.add(flat.nbytes * (self.size - 1))
        self._broadcast(flat, root)

    def allreduce_(self, x: Array, op: str = "sum") -> None:
        """x becomes the sum (or "max", "min") of x over all ranks, on every rank. Any shape.

        The *fast mode*: the order of summation is the transport's own, so the last bits of a
        floating-point sum depend on the number of ranks. The exact sum is in `dtrain.parallel`.
        """
        _check_op(x, op)
        flat = _flat(x, write=True)
        self.traffic.add(2 * flat.nbytes * (self.size - 1) // self.size)
        self._allreduce(flat, op)

    def reduce_scatter(self, x: Array) -> Array:
        """This rank's part of the sum of x over all ranks, cut by `shares(x.size, size)`.

        x: any shape, read in C order -> (cuts[rank + 1] - cuts[rank],). Fast mode, as `allreduce_`.
        """
        _check_op(x, "sum")
        flat = _flat(x)
        self.traffic.add(flat.nbytes * (self.size - 1) // self.size)
        return self._reduce_scatter(flat, shares(x.size, self.size))

    def all_gather(self, x: Array) -> Array:
        """x of every rank, stacked: (...) -> (size, ...), row r from rank r."""
        flat = _flat(x)
        out = np.empty((self.size, *x.shape), x.dtype)
        _flat(out)[self.rank * x.size : (self.rank + 1) * x.size] = flat
        self.traffic.add(flat.nbytes * (self.size - 1))
        self._all_gather(_flat(out, write=True), [r * x.size for r in range(self.size + 1)])
        return out

    def all_gather_(self, buffer: Array, cuts: Sequence[int]) -> None:
        """Fill a 1-D buffer of which rank r has filled buffer[cuts[r]:cuts[r+1]].

        cuts: size + 1 rising numbers, the same on every rank.
        """
        flat = _flat(buffer, write=True)
        cuts = [int(cut) for cut in cuts]
        rises = all(a <= b for a, b in zip(cuts, cuts[1:], strict=False))
        if len(cuts) != self.size + 1 or cuts[0] != 0 or cuts[-1] != flat.size or not rises:
            raise ValueError(
                f"cuts must be {self.size + 1} rising numbers from 0 to the buffer's size "
                f"{flat.size}, got {cuts}; shares(n, size) makes such a list"
            )
        self.traffic.add((cuts[self.rank + 1] - cuts[self.rank]) * flat.itemsize * (self.size - 1))
        self._all_gather(flat, cuts)

    def all_to_all(
        self,
        send: Array,
        send_counts: Sequence[int],
        recv_counts: Sequence[int],
        out: Array | None = None,
    ) -> Array:
        """Send a part of `send` to every rank, receive one from each, in order of rank.

        send: 1-D, send_counts[d] items for rank d -> 1-D, recv_counts[s] items from rank s.
        `out`, 1-D and of the right size and dtype, takes the result and saves an allocation.
        """
        flat = _flat(send)
        self._check_counts("send_counts", send_counts, flat.size)
        if out is None:
            out = np.empty(sum(recv_counts), send.dtype)
        elif out.dtype != send.dtype:
            raise TypeError(f"out has dtype {out.dtype}, send has {send.dtype}; make them equal")
        self._check_counts("recv_counts", recv_counts, out.size)
        self.traffic.add((flat.size - send_counts[self.rank]) * flat.itemsize)
        self._all_to_all(flat, list(send_counts), _flat(out, write=True), list(recv_counts))
        return out

    def broadcast_object(self, value: T, root: int = 0) -> T:
        """The value of rank `root`, pickled: for small messages at start-up."""
        self._check_root(root)
        return self.all_gather_object(value if self.rank == root else None)[root]  # type: ignore[return-value]

    @abstractmethod
    def all_gather_object(self, value: T) -> list[T]:
        """Every rank's value, by rank, pickled: for small messages at start-up."""

    @abstractmethod
    def barrier(self) -> None:
        """Returns when every rank is here."""

    @abstractmethod
    def abort(self, code: int = 1) -> None:
        """End all ranks of the whole job at once with this exit code. Does not return."""

    def attempt(self, function: Callable[..., T], *args: Any) -> tuple[bool, T | None]:
        """Run function(*args), which calls collectives, so that either all ranks that are left have done it, or none.

        (True, the result), or (False, None) where ranks were lost before all others were done; the same on every
        rank that is left. If ranks were lost, this is now the communicator of those that are left: `generation` has
        grown, and rank, size and places may be others. A communicator that does not survive only runs it.
        """
        return True, function(*args)

    # Groups of ranks

    @abstractmethod
    def host_group(self) -> Communicator:
        """The ranks on this host; a rank in it is a `local_rank`. All ranks call this."""

    @abstractmethod
    def lane_group(self) -> Communicator | None:
        """The ranks with this one's local rank, one per host, in the order of hosts. All ranks call this.

        None for a local rank that some host does not have.
        """

    @property
    def lanes(self) -> int:
        """How many lanes there are: the number of ranks on the host that has fewest."""
        return min(Counter(number for number, _ in self.places).values())

    def window(self, nbytes: int, patient: bool = False) -> Window | None:
        """Memory of `nbytes` a rank that all ranks share, None where they cannot. All ranks call this.

        patient: who waits in a meeting leaves the core to others from the start.
        """
        return None

    # Non-blocking forms

    def start(self, function: Callable[..., Any], *args: Any) -> Request:
        """Run `function(twin, *args)` on this communicator's one helper thread.

        `twin` is a communicator of the same ranks whose messages never meet those of this one, so
        that collectives of the main thread and of the helper thread can run at the same time.
        Functions run in the order in which they were started; ranks start the same ones in the
        same order. The thread is made by the first call.
        """
        if self._helper is None:
            self._helper = Helper(f"comm-rank-{self.rank}", self._helper_failed)
        twin = self._twin()
        twin.traffic = self.traffic
        return self._helper.submit(Request(function, twin, *args))

    def iallreduce_(self, x: Array, op: str = "sum") -> Request:
        """Starts `allreduce_`; x must be left alone until the request is done."""
        return self.start(Communicator.allreduce_, x, op)

    def ibroadcast_(self, x: Array, root: int = 0) -> Request:
        """Starts `broadcast_`; x must be left alone until the request is done."""
        return self.start(Communicator.broadcast_, x, root)

    def ireduce_scatter(self, x: Array) -> Request:
        """Starts `reduce_scatter`; `wait` returns this rank's part."""
        return self.start(Communicator.reduce_scatter, x)

    def iall_gather(self, x: Array) -> Request:
        """Starts `all_gather`; `wait` returns the stacked arrays."""
        return self.start(Communicator.all_gather, x)

    def iall_gather_(self, buffer: Array, cuts: Sequence[int]) -> Request:
        """Starts `all_gather_`; the buffer must be left alone until the request is done."""
        return self.start(Communicator.all_gather_, buffer, cuts)

    def iall_to_all(self, send: Array, send_counts: Sequence[int], recv_counts: Sequence[int]) -> Request:
        """Starts `all_to_all`; `wait` returns what was received."""
        return self.start(Communicator.all_to_all, send, send_counts, recv_counts)

    def close(self) -> None:
        """Finish what was started and end the helper thread; a later `start` makes a new one."""
        if self._helper is not None:
            self._helper.close()
            self._helper = None

    def _helper_failed(self, error: BaseException) -> None:
        # Who waits for the request, or else the next attempt, learns that ranks are lost.
        if self.on_helper_error is not None and not isinstance(error, RankLost):
            self.on_helper_error(error)

    # What a transport provides, on flat arrays that are checked already

    @abstractmethod
    def _twin(self) -> Communicator: ...

    @abstractmethod
    def _broadcast(self, flat: Array, root: int) -> None: ...

    @abstractmethod
    def _allreduce(self, flat: Array, op: str) -> None: ...

    @abstractmethod
    def _reduce_scatter(self, flat: Array, cuts: list[int]) -> Array: ...

    @abstractmethod
    def _all_gather(self, flat: Array, cuts: list[int]) -> None: ...

    @abstractmethod
    def _all_to_all(self, send: Array, send_counts: list[int], recv: Array, recv_counts: list[int]) -> None: ...

    def _check_root(self, root: int) -> None:
        if not 0 <= root < self.size:
            raise ValueError(f"root must be one of {self.size} ranks, 0 to {self.size - 1}, got {root}")

    def _check_counts(self, name: str, counts: Sequence[int], total: int) -> None:
        if len(counts) != self.size or min(counts) < 0 or sum(counts) != total:
            raise ValueError(
                f"{name} must be {self.size} numbers, one per rank, that add up to the array's "
                f"size {total}, got {list(counts)}"
            )


def _flat(x: Array, write: bool = False) -> Array:
    """A 1-D view of x: (...) -> (x.size,); bool becomes uint8, which every transport knows."""
    if not isinstance(x, np.ndarray):
        raise TypeError(
            f"expected a NumPy array, got {type(x).__module__}.{type(x).__name__}; "
            "pass np.asarray(x), the .array of a Tensor, or a copy in host memory"
        )
    if x.dtype not in DTYPES:
        names = ", ".join(sorted(dtype.name for dtype in DTYPES))
        raise TypeError(f"cannot send dtype {x.dtype}; convert to one of {names}")
    if not x.flags.c_contiguous:
        raise ValueError(
            f"cannot send an array of shape {x.shape} and strides {x.strides}: it is not "
            "C-contiguous; use np.ascontiguousarray(x)"
        )
    if write and not x.flags.writeable:
        raise ValueError(f"the array of shape {x.shape} is read-only; pass a writeable copy")
    flat = x.reshape(-1)
    return flat.view(np.uint8) if x.dtype == bool else flat


def _check_op(x: Array, op: str) -> None:
    if op not in OPS:
        raise ValueError(f"op {op!r} is unknown; use one of {', '.join(OPS)}")
    if op == "sum" and getattr(x, "dtype", None) == np.dtype(bool):
        raise TypeError("cannot sum dtype bool; use op='max' for or, 'min' for and, or an int64 array")
