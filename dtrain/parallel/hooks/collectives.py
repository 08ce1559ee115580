"""What a communication hook can do with other ranks: sum, or gather, what the microbatches have, by messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dtrain.backend import Array
from dtrain.comm import Communicator, shares
from dtrain.data.sampler import microbatch_block
from dtrain.parallel.tree import Additions, Node

__all__ = ["Add", "MicrobatchMessages"]

Add = Callable[[Array, Array], Array]


class MicrobatchMessages:
    """Sums along the tree, and gathers, over the M microbatches of all ranks.

    Between hosts of several ranks a sum goes the way of `HostsExchange`: first the ranks of a host, then one lane
    for each share of the elements. All ranks make one together, and call its methods in the same order.
    """

    def __init__(self, comm: Communicator, microbatches: int) -> None:
        self.microbatches = microbatches
        blocks = [microbatch_block(rank, comm.size, microbatches) for rank in range(comm.size)]
        self.block = blocks[comm.rank]
        self.cuts = [block.start for block in blocks] + [microbatches]
        by_rank = [Additions([(0, j) for j in block], microbatches) for block in blocks]
        self.own = by_rank[comm.rank]
        hosts: list[list[int]] = [[] for _ in {host for host, _ in comm.places}]
        for rank in sorted(range(comm.size), key=lambda r: comm.places[r]):
            hosts[comm.places[rank][0]].append(rank)
        self.here: Communicator | None = None
        meeting = by_rank  # who meets at last: ranks, or hosts
        if comm.size > len(hosts) > 1:
            self.here, self.lane, lanes = comm.host_group(), comm.lane_group(), comm.lanes
            meeting = [Additions(_rest([by_rank[rank] for rank in host]), microbatches) for host in hosts]
            number = comm.places[comm.rank][0]
            self.of_host = meeting[number]
            self.here_counts = [len(by_rank[rank].rest) for rank in hosts[number]]
            # Ranks beyond the last lane carry nothing.
            self.here_cuts = lambda n: shares(n, lanes) + [n] * (len(hosts[number]) - lanes)
        self.counts = [len(additions.rest) for additions in meeting]
        self.last = Additions(_rest(meeting), microbatches)

    def all_reduce(self, comm: Communicator, leaves: Mapping[int, Array], add: Add = np.add) -> Array:
        """The sum over all microbatches along the tree, on every rank.

        comm: the one given at first, or its twin on the helper thread. leaves: this rank's microbatch number -> array,
        of the same shape and dtype for all microbatches. Sums are made in that dtype, or by add(a, b) -> array, which
        is called on slices of the first dimension and must not change its arguments.
        """
        first = next(iter(leaves.values()))
        if not len(first):
            return first.copy()
        rows = _add_up(self.own, [np.ascontiguousarray(leaves[j]) for j in self.block], add)
        if self.here is None:
            return self._meet(comm, rows, add)
        cuts = self.here_cuts(len(first))
        rows = _scatter(self.here, rows, cuts, self.here_counts)
        total = rows[0]
        if self.lane is not None and len(total):
            total = self._meet(self.lane, _add_up(self.of_host, rows, add), add)
        return _gather(self.here, total, cuts)

    def _meet(self, comm: Communicator, rows: list[Array], add: Add) -> Array:
        cuts = shares(len(rows[0]), comm.size)
        rows = _scatter(comm, rows, cuts, self.counts)
        total = _add_up(self.last, rows, add)[0] if len(rows[0]) else rows[0]
        return _gather(comm, total, cuts)

    def all_gather(self, comm: Communicator, payloads: Mapping[int, Array]) -> list[Array]:
        """The payloads of all M microbatches, in order of microbatch: 1-D arrays of one size and dtype everywhere."""
        first = next(iter(payloads.values()))
        buffer = np.empty((self.microbatches, first.size), first.dtype)
        for j, payload in payloads.items():
            buffer[j] = payload
        if comm.size > 1 and first.nbytes:
            comm.all_gather_(buffer.view(np.uint8).reshape(-1), [cut * first.nbytes for cut in self.cuts])
        return list(buffer)


def _rest(parts: Sequence[Additions]) -> list[Node]:
    return [node for additions in parts for node in additions.rest_nodes]


def _add_up(additions: Additions, rows: Sequence[Array], add: Add) -> list[Array]:
    rows = list(rows)
    for a, b in additions.steps:
        rows[a] = add(rows[a], rows[b])
    return [rows[i] for i in additions.rest]


def _scatter(comm: Communicator, rows: list[Array], cuts: Sequence[int], counts: Sequence[int]) -> list[Array]:
    """All ranks' rows between this rank's cuts, in order of rank; rank r has counts[r] rows."""
    if comm.size == 1:
        return rows
    like, size = rows[0], rows[0].nbytes // len(rows[0])
    lo, hi = cuts[comm.rank], cuts[comm.rank + 1]
    send = np.concatenate([_bytes(row[a:b]) for a, b in zip(cuts, cuts[1:], strict=False) for row in rows])
    received = comm.all_to_all(
        send,
        [(b - a) * size * len(rows) for a, b in zip(cuts, cuts[1:], strict=False)],
        [(hi - lo) * size * count for count in counts],
    )
    return list(received.view(like.dtype).reshape(sum(counts), hi - lo, *like.shape[1:]))


def _gather(comm: Communicator, part: Array, cuts: Sequence[int]) -> Array:
    """The whole array, of which each rank has the part between its cuts."""
    if comm.size == 1:
        return part
    out = np.empty((cuts[-1], *part.shape[1:]), part.dtype)
    out[cuts[comm.rank] : cuts[comm.rank + 1]] = part
    size = out.nbytes // cuts[-1]
    comm.all_gather_(_bytes(out), [cut * size for cut in cuts])
    return out


def _bytes(array: Array) -> Array:
    """A view of a contiguous array that every transport can send."""
    return array.reshape(-1).view(np.uint8)
