"""The subtree sums of all ranks become the root of the tree, on every rank: the exact all-reduce.

A message of n elements has, on each rank, one row of n for each of the rank's subtree sums (tree.py).
Each rank finishes the tree on its share of the elements, and all get the result in row 0. What differs
is how a rank reads the others' rows:

    SharedExchange   the ranks of one host: where they lie, in shared memory
    SmallExchange    the same for a short message: each rank adds up all of it, and they meet once, not twice
    MessageExchange  all-to-all of the rows and all-gather of the results, through any communicator
    HostsExchange    first the ranks of a host in shared memory, then one lane of ranks between hosts
    NCCLExchange     as MessageExchange, from GPU to GPU (device_exchange.py)
    StagedExchange   by one of those above, in the memory of the host (device_exchange.py)
    FastExchange     not at all: the communicator's own all-reduce, whose bits depend on the ranks

A result moves as often as in a ring all-reduce: 2 n (P - 1) / P elements a rank, or 2 n (H - 1) / H a host
between H hosts, where each of them holds one subtree; a little more where they hold several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.backend import Array, backend_of, joined, on_gpu, xp_of
from dtrain.comm import Communicator, Window, shares
from dtrain.data.sampler import microbatch_block
from dtrain.parallel.tree import Additions, Block, Node

__all__ = [
    "Exchange",
    "FastExchange",
    "HostsExchange",
    "MessageExchange",
    "SharedExchange",
    "SmallExchange",
    "exchange_rows",
    "open_exchange",
]

# Elements finished at a time: as many rows as there are ranks stay in the cache.
CHUNK = 1 << 15
# Bytes of a message that is short: to meet takes longer than to add it up.
SMALL = 1 << 14


class Exchange:
    """Where a rank's sums lie, and how they meet those of the other ranks.

    comm: all of its ranks make the exchange together. microbatches: M. rows: this rank's sums so far, 1-D
    arrays of a message's size. mean_from: after element 0, the sum of the microbatches' weights, has been
    summed, elements from this one on are divided by it; None: nothing is.

    Attribute `rows`: where the sums lie from now on; `rows[0]` takes the result. at_once: whether the whole
    message is to be summed in one call. waits: whether `all_reduce` waits for other ranks, and so is to be called on
    the helper thread where communication overlaps; else it only gives work to the GPU.
    """

    at_once = False
    waits = True

    def __init__(self, comm: Communicator, microbatches: int, rows: list[Array], mean_from: int | None) -> None:
        self.comm, self.microbatches, self.rows, self.mean_from = comm, microbatches, rows, mean_from
        self.blocks = [Block(microbatch_block(r, comm.size, microbatches)) for r in range(comm.size)]
        self.held = [block.nodes for block in self.blocks]  # by rank
        self.own = len(self.held[comm.rank])
        self.factor: Any = None

    def depart(self, where: slice) -> None:
        """The rows are complete there; called before `all_reduce` and on the main thread."""

    def arrive(self) -> None:
        """What the main thread does from now on with the results is done with all of them."""

    def all_reduce(self, comm: Communicator, where: slice) -> None:
        """rows[0][where] becomes the sum, or mean, over all microbatches, on every rank; the slice with
        element 0 first. comm: the one given at first, or its twin on the helper thread."""
        out = self.rows[0][where]
        first = self.mean_from is not None and where.start == 0
        self._sum(comm, where, None if first else self.factor)
        if first:
            self._settle(out[0])
            out[self.mean_from :] *= self.factor

    def _settle(self, total: Any) -> None:
        """The sum of the weights is known."""
        if on_gpu(total):  # the same without waiting for the number
            wide = total.astype(np.float64)
            self.factor = xp_of(wide).where(wide == 0, 0.0, 1 / wide).astype(total.dtype)
        else:
            self.factor = type(total)(1 / float(total) if total else 0.0)

    def _sum(self, comm: Communicator, where: slice, factor: Any) -> None:
        raise NotImplementedError


class FastExchange(Exchange):
    """The communicator's all-reduce of one sum per rank: the last bits depend on the number of ranks."""

    def _sum(self, comm: Communicator, where: slice, factor: Any) -> None:
        out = self.rows[0][where]
        comm.allreduce_(out)
        if factor is not None:
            out *= factor


class MessageExchange(Exchange):
    """Through the messages of any communicator."""

    def __init__(self, comm: Communicator, microbatches: int, rows: list[Array], mean_from: int | None) -> None:
        super().__init__(comm, microbatches, rows, mean_from)
        merged = [Additions(nodes, microbatches) for nodes in self.held]
        self.merge = merged[comm.rank]
        self.counts = [len(m.rest) for m in merged]
        self.finish = Additions([node for m in merged for node in m.rest_nodes], microbatches)

    def _sum(self, comm: Communicator, where: slice, factor: Any) -> None:
        rows = self.merge.make([row[where] for row in self.rows[: self.own]])
        exchange_rows(comm, rows, self.counts, self.finish, self.rows[0][where], factor)


class SharedExchange(Exchange):
    """The ranks of one host, in memory that they share: nothing is packed or sent. Each writes its share of the result
    into everybody's rows, so that what a rank does to its gradients afterwards is its own affair."""

    at_once = True

    def __init__(self, comm: Communicator, microbatches: int, rows: list[Array], mean_from: int | None) -> None:
        super().__init__(comm, microbatches, rows, mean_from)
        self.window, of_ranks, weights = _shared_rows(
            comm, rows, max(block.slots for block in self.blocks), patient=False
        )
        if self.window is None:
            return
        self.rows = of_ranks[comm.rank][: len(rows)]
        held = [(rank, i, node) for rank, nodes in enumerate(self.held) for i, node in enumerate(nodes)]
        self.finish = Additions([node for _, _, node in held], self.microbatches)
        self.all_rows = [of_ranks[rank][i] for rank, i, _ in held]
        self.results = [theirs[0] for rank, theirs in enumerate(of_ranks) if rank != comm.rank]
        # Element 0 of each row once more: the row itself is overwritten by the rank whose share it is in.
        self.own_weights = weights[self.comm.rank]
        self.all_weights = [weights[rank][i : i + 1] for rank, i, _ in held]
        self.total = np.empty(1, rows[0].dtype)

    def all_reduce(self, comm: Communicator, where: slice) -> None:
        assert self.window is not None
        if self.mean_from is not None:
            for i, row in enumerate(self.rows[: self.own]):
                self.own_weights[i] = row[0]
        self.window.meet()
        if self.mean_from is not None:
            self.finish.finish([weight.copy() for weight in self.all_weights], self.total)
            self._settle(self.total[0])
        lo, hi = _share(where.start, where.stop, comm.rank, comm.size)
        for start in range(lo, hi, CHUNK):
            part = slice(start, min(start + CHUNK, hi))
            out = self.rows[0][part]
            self.finish.finish([row[part] for row in self.all_rows], out)
            if self.mean_from is not None:
                out[max(0, self.mean_from - start) :] *= self.factor
            for result in self.results:
                result[part] = out
        self.window.meet()


class SmallExchange(Exchange):
    """The ranks of one host show each other a copy of their rows in shared memory, and each adds all of them up.

    Copies of one call lie beside those of the call before, which others may still read: a rank can only be one
    meeting ahead.
    """

    at_once = True

    def __init__(self, comm: Communicator, microbatches: int, rows: list[Array], mean_from: int | None) -> None:
        super().__init__(comm, microbatches, rows, mean_from)
        twice = [np.zeros_like(rows[0])] * (2 * max(len(nodes) for nodes in self.held))
        self.window, of_ranks, _ = _shared_rows(comm, twice, len(twice), patient=False)
        if self.window is None:
            return
        held = [(rank, i, node) for rank, nodes in enumerate(self.held) for i, node in enumerate(nodes)]
        finish = Additions([node for _, _, node in held], self.microbatches)
        #: By turn: where to copy the rows, and what to add.
        self.turns = [
            (
                list(zip(of_ranks[comm.rank][turn::2], rows[: self.own], strict=False)),
                finish.calls([of_ranks[rank][2 * i + turn] for rank, i, _ in held], rows[0]),
            )
            for turn in (0, 1)
        ]
        self.turn = 0

    def all_reduce(self, comm: Communicator, where: slice) -> None:
        assert self.window is not None
        self.turn = 1 - self.turn
        copies, additions = self.turns[self.turn]
        for copy, row in copies:
            copy[...] = row
        self.window.meet()
        for a, b, total in additions:
            np.add(a, b, total)
        if self.mean_from is not None:
            out = self.rows[0]
            self._settle(out[0])
            out[self.mean_from :] *= self.factor


class HostsExchange(Exchange):
    """Several hosts: the ranks of each add up in shared memory, then lane k carries the k-th share of the
    elements between hosts. A lane is made of one rank per host; there are as many as the smallest host has ranks.
    """

    def __init__(self, comm: Communicator, microbatches: int, rows: list[Array], mean_from: int | None) -> None:
        super().__init__(comm, microbatches, rows, mean_from)
        here, self.lane, self.lanes = comm.host_group(), comm.lane_group(), comm.lanes
        self.window, of_ranks, _ = _shared_rows(here, rows, max(block.slots for block in self.blocks), patient=True)
        if self.window is None:
            return
        self.rows = of_ranks[here.rank][: len(rows)]
        self.results = [theirs[0] for rank, theirs in enumerate(of_ranks) if rank != here.rank]
        number = comm.places[comm.rank][0]
        self.all_rows = [
            of_ranks[local_rank][i]
            for rank, (host, local_rank) in enumerate(comm.places) if host == number
            for i in range(len(self.held[rank]))
        ]  # fmt: skip
        of_hosts: dict[int, list[Node]] = {}
        for rank, (host, _) in enumerate(comm.places):
            of_hosts.setdefault(host, []).extend(self.held[rank])
        merged = [Additions(of_hosts[host], self.microbatches) for host in sorted(of_hosts)]
        self.merge, self.counts = merged[number], [len(m.rest) for m in merged]
        self.finish = Additions([node for m in merged for node in m.rest_nodes], self.microbatches)

    def _sum(self, comm: Communicator, where: slice, factor: Any) -> None:
        assert self.window is not None
        self.window.meet()
        if self.lane is not None:
            lo, hi = _share(where.start, where.stop, comm.local_rank, self.lanes)
            for start in range(lo, hi, CHUNK):
                self.merge.make([row[start : min(start + CHUNK, hi)] for row in self.all_rows])
            rows, out = [self.all_rows[i][lo:hi] for i in self.merge.rest], self.rows[0][lo:hi]
            exchange_rows(self.lane, rows, self.counts, self.finish, out, factor)
            for result in self.results:
                result[lo:hi] = out
        self.window.meet()


def plan_rows(comm: Communicator, microbatches: int, exact: bool) -> tuple[list[tuple[int, int]], int]:
    """How this rank adds up its microbatches (`Block.plan`), and in how many rows."""
    block = Block(microbatch_block(comm.rank, comm.size, microbatches))
    return (block.plan, block.slots) if exact else ([(0, 0)] + [(1, 1)] * (len(block.plan) - 1), 1)


def open_exchange(
    comm: Communicator, microbatches: int, rows: list[Array], mean_from: int | None, *, exact: bool, overlap: bool
) -> Exchange:
    """The fastest one for these ranks. All of them call this."""
    if on_gpu(rows[0]) and comm.size > 1:
        from dtrain.parallel.device_exchange import NCCLExchange, StagedExchange

        if comm.nccl is not None:
            return NCCLExchange(comm, microbatches, rows, mean_from, exact)

        def on_the_host(room: list[Array]) -> Exchange:
            return open_exchange(comm, microbatches, room, mean_from, exact=exact, overlap=overlap)

        held = len(Block(microbatch_block(comm.rank, comm.size, microbatches)).nodes)
        return StagedExchange(comm, microbatches, rows, mean_from, held, on_the_host)
    if not exact:
        return FastExchange(comm, microbatches, rows, mean_from)
    if comm.local_size == comm.size > 1 and not overlap:
        kind = SmallExchange if rows[0].nbytes <= SMALL else SharedExchange
        shared = kind(comm, microbatches, rows, mean_from)
        if shared.window is not None:
            return shared
    elif comm.size > len({host for host, _ in comm.places}) > 1:
        hosts = HostsExchange(comm, microbatches, rows, mean_from)
        if all(comm.all_gather_object(hosts.window is not None)):
            return hosts
    return MessageExchange(comm, microbatches, rows, mean_from)


def exchange_rows(
    comm: Communicator, rows: Sequence[Array], counts: Sequence[int], finish: Additions, out: Array, factor: Any = None
) -> None:
    """out = the root of the tree times factor (None: 1), on every rank, by way of messages.

    rows: this rank's sums, 1-D arrays of out's size, overwritten; out may be one of them. counts[r]: how many
    rank r has. finish: the additions among all ranks' rows, in order of rank.
    """
    cuts = shares(out.size, comm.size)
    lo, hi = cuts[comm.rank], cuts[comm.rank + 1]
    if comm.size > 1:
        sizes = [b - a for a, b in zip(cuts, cuts[1:], strict=False)]
        send = rows[0] if len(rows) == 1 else _by_rank(rows, cuts)
        received = comm.all_to_all(send, [len(rows) * size for size in sizes], [n * (hi - lo) for n in counts])
        rows = list(received.reshape(sum(counts), hi - lo))
    if on_gpu(out):

        def add_up(total: Array, *rows: Array) -> None:
            total[...] = finish.total(rows)

        backend_of(out).each_element(add_up, out[lo:hi], *rows)  # one kernel
        if factor is not None:
            out[lo:hi] *= factor
    else:
        for start in range(0, hi - lo, CHUNK):
            part = slice(start, start + CHUNK)
            total = out[lo:hi][part]
            finish.finish([row[part] for row in rows], total)
            if factor is not None:
                total *= factor
    if comm.size > 1:
        comm.all_gather_(out, cuts)


def _by_rank(rows: Sequence[Array], cuts: Sequence[int]) -> Array:
    """What each rank is to get, in order of rank: its share of every row."""
    return joined([row[a:b] for a, b in zip(cuts, cuts[1:], strict=False) for row in rows])


def _share(start: int, stop: int, part: int, parts: int) -> tuple[int, int]:
    """The bounds of one of `parts` nearly equal parts of a slice."""
    cuts = shares(stop - start, parts)
    return start + cuts[part], start + cuts[part + 1]


def _shared_rows(
    comm: Communicator, rows: Sequence[Array], most: int, patient: bool
) -> tuple[Window | None, list[list[Array]], list[Array]]:
    """Memory shared by the ranks of a host: the window, each rank's `most` rows, and as many numbers beside them.

    The contents of `rows` are copied to this rank's. Without a window there are no rows.
    """
    n, dtype = rows[0].size, rows[0].dtype
    room = -(-n * dtype.itemsize // 64) * 64 // dtype.itemsize  # rows start on cache lines
    window = comm.window((most * room + most) * dtype.itemsize, patient)
    if window is None:
        return None, [], []
    parts = [part.view(dtype) for part in window.parts]
    of_ranks = [[part[i * room : i * room + n] for i in range(most)] for part in parts]
    for new, old in zip(of_ranks[comm.rank], rows, strict=False):
        new[...] = old
    return window, of_ranks, [part[most * room :] for part in parts]
