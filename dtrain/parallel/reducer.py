"""From gradients that arrive one by one to their sum over all microbatches of all ranks.

A `Reducer` looks after the parameters of one dtype and device. They lie in one flat gradient
(dtrain/nn/flat.py), in the memory of a message:

    [ header | gradients, the last layers' first | used ]

The header holds what the step needs beside gradients (samples, loss, buffers) and leaves with the
first bucket; `used` counts for each parameter how many microbatches used it and leaves with the
last. The message is row 0 of the rank's subtree sums (exchange.py): gradients are summed where
backward has put them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dtrain.autograd import Tensor
from dtrain.backend import Array, xp_of
from dtrain.comm import Communicator, RankLost
from dtrain.nn.flat import Flat
from dtrain.parallel.exchange import Exchange, open_exchange, plan_rows

__all__ = ["Reducer", "wait_for_all"]

# Bytes: links are fastest with messages of 1 to 4 MiB; the first is small, so that something is under way early.
_FIRST_BUCKET = 1 << 20
_BUCKET = 2 << 20


@dataclass(slots=True)
class Arrivals:
    """What has arrived of the rank's k-th microbatch, and where it is added up (`Block.plan`)."""

    k: int
    weight: Any  # by which its gradients are multiplied; None: 1
    depth: int
    carries: int
    arrived: list[bool]  # by tensor


class Reducer:
    """Sums the gradients of a Flat's tensors over the microbatches of a step.

    owner: the DistributedDataParallel that it works for, which opens a microbatch when the first gradient
    arrives, says which complete buckets may leave, and is asked before an optimizer's step. header: how many
    numbers travel with the first bucket. A step is: for each of this rank's microbatches `begin(k, weight)`,
    `add_header`, `add` for each parameter as its gradient arrives, `end`; after the last one `wait`. (Microbatches
    may also take turns, with `resume`, as long as each parameter's gradients arrive in their order. A step that is
    postponed ends without `wait`: its microbatches are added to those of the next with the same numbers.) The sums
    are then in `message`, multiplied by 1 / header[0] except for the header itself (unless there is one
    microbatch only, whose gradients are left as they are).
    """

    def __init__(
        self, owner: Any, comm: Communicator, flat: Flat, microbatches: int, header: int, exact: bool, overlap: bool
    ) -> None:
        if flat.data.dtype not in (np.float32, np.float64):
            raise TypeError(
                f"gradients of dtype {flat.data.dtype} cannot be summed exactly; "
                "use float32 or float64 parameters: model.to(dtrain.float32)"
            )
        self.owner = owner
        self.comm, self.flat, self.microbatches, self.overlap = comm, flat, microbatches, overlap
        line = 64 // flat.data.dtype.itemsize
        self.offset = -(-header // line) * line
        n = self.offset + len(flat.grad) + len(flat.tensors)
        # With one microbatch there is no mean to take: its bits are those of a plain loop.
        mean_from = self.offset if microbatches > 1 else None
        self.exchange: Exchange | None = None
        self.exact, self.mean_from = exact, mean_from
        self.plan, rows = self._plan()
        # In which the gradients of the first microbatch arrived: that of rank 0 is the same at any number of ranks.
        self.order: list[int] = []
        self.turns: list[Arrivals] = []
        # What steps before this one have left to be summed with it, one row for each of the rank's microbatches.
        self.waiting: list[Array] = []
        self.postponed = False  # whether this step leaves its sums, too
        self.index = {id(t): i for i, t in enumerate(flat.tensors)}
        self._lie_in(list(xp_of(flat.data).zeros((rows, n), flat.data.dtype)), header)
        self._cut_buckets()
        self.last = len(self.plan) - 1
        #: Whether every parameter got a gradient in one of this rank's microbatches: then `used` need not be read.
        self.all_used = False
        self.requests: list[Any] = []
        self.bucket: int | None = None  # that is being summed
        self.lost: RankLost | None = None  # why the sums will never be there

    def _plan(self) -> tuple[list[tuple[int, int]], int]:
        """How the rank's microbatches are added up, and in how many rows."""
        return plan_rows(self.comm, self.microbatches, self.exact)

    def _lie_in(self, rows: list[Array], header: int) -> None:
        """Let the rank's sums, and with the first of them the gradients, lie in these arrays."""
        self.rows, self.message = rows, rows[0]
        self.header = self.message[:header]
        self.used = self.message[len(self.message) - len(self.flat.tensors) :]
        self.flat.move_gradients(self.message, self.offset)

    def ready(self) -> None:
        """Afterwards no bucket's departure involves the ranks' main threads. All ranks call this."""
        try:
            if self.exchange is None:
                self._open_exchange()
        except RankLost as error:  # backward goes on; the end of the step takes it back
            self.lost = error

    def _open_exchange(self) -> Exchange:
        """When something is to be exchanged for the first time: there all ranks do the same in the same order."""
        self.exchange = open_exchange(
            self.comm, self.microbatches, self.rows, self.mean_from, exact=self.exact, overlap=self.overlap
        )
        self._lie_in(self.exchange.rows, len(self.header))
        if self.exchange.at_once:
            self.buckets = [slice(0, len(self.message))]
        return self.exchange

    def _cut_buckets(self) -> None:
        """Slices of the message, and for each the number of tensors that reach into it."""
        n, size = len(self.message), self.message.dtype.itemsize
        bucket = _BUCKET * max(1, self.comm.lanes // 2)  # so that a lane's share is at least 1 MiB
        self.place = [
            slice(self.offset + t._flat.slice.start, self.offset + t._flat.slice.stop) for t in self.flat.tensors
        ]
        self.used_place = slice(n - len(self.flat.tensors), n)
        ends = self.ends = self._bucket_ends(_FIRST_BUCKET // size, bucket // size)
        self.buckets = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        self.things = [0] * len(self.buckets)  # how many things each bucket waits for
        for where in (*self.place, slice(0, len(self.header)), self.used_place):
            for b in self._buckets_of(where):
                self.things[b] += 1

    def _bucket_ends(self, first: int, size: int) -> list[int]:
        """Where buckets end, of about `first` elements the first, of `size` the others: behind a tensor where that
        makes none more than twice as large, so that they do not wait for the next one's gradient."""
        ends, start, size_now = [], 0, max(first, self.offset)
        for place in self.place:
            while place.stop - start > 2 * size_now:
                start = place.start if place.start - start >= size_now // 2 else start + size_now
                ends.append(start)
                size_now = size
            if place.stop - start >= size_now:
                start = place.stop
                ends.append(start)
                size_now = size
        if start == self.place[-1].stop:  # `used` comes with the last tensor
            ends.pop()
        return [*ends, len(self.message)]

    def _buckets_of(self, where: slice) -> range:
        """The buckets into which a slice of the message reaches."""
        first = bisect_right(self.ends, where.start)
        return range(first, bisect_right(self.ends, max(where.start, where.stop - 1)) + 1)

    # -- one microbatch --------------------------------------------------------------------------

    def begin(self, k: int, weight: float | None, postponed: bool = False) -> None:
        """The k-th microbatch of this rank comes next; its gradients count `weight` times (None: once).

        postponed: whether the sum of the step is left to a later one; the same for all of its microbatches.
        """
        # With one microbatch there is nothing to weigh: its bits are those of a plain loop.
        factor = None if weight is None or self.microbatches == 1 else self.message.dtype.type(weight)
        self.now = Arrivals(k, factor, *self.plan[k], arrived=[False] * len(self.flat.tensors))
        self.turns[k:] = [self.now]
        if k == 0:
            self.order, self.all_used = [], False
            self.postponed = postponed
            if postponed and not self.waiting:
                self.waiting = list(xp_of(self.message).zeros((len(self.plan), len(self.message)), self.message.dtype))
        self.missing = list(self.things)
        self.sent = 0

    def resume(self, k: int) -> None:
        """What is added from now on is the k-th microbatch's, which has begun before."""
        self.now = self.turns[k]

    def add_header(self, values: Array) -> None:
        """Add this microbatch's header."""
        self._add(slice(0, len(values)), values)

    def add(self, tensor: Tensor, g: Array) -> None:
        """Add the gradient of a parameter in this microbatch."""
        self.owner.open_microbatch()
        i, now = self.index[id(tensor)], self.now
        now.arrived[i] = True
        if now.k == 0:
            self.order.append(i)
        where = self.place[i]
        if now.weight is None:
            self._add(where, g.reshape(-1))
        elif not now.weight:
            self._add(where, 0)  # what has no weight may be NaN: the loss of a microbatch without samples is
        elif not now.carries and not self.waiting and g.dtype == self.message.dtype:
            # In one pass over memory, whatever the layout of g.
            xp_of(g).multiply(g, now.weight, out=self.rows[now.depth][where].reshape(g.shape))
            self._has_come(where)
        else:
            self._add(where, (g * now.weight).reshape(-1))

    def check(self) -> None:
        """Raise RuntimeError unless all microbatches of the step are in."""
        self.owner.check_complete()

    def end(self) -> None:
        """The backward walk of this microbatch is over: what has not arrived is zero."""
        now = self.now
        whole = all(now.arrived)
        self.all_used = self.all_used or whole
        used = 1 if whole else np.array(now.arrived, self.message.dtype)
        for i, arrived in enumerate(now.arrived):
            if not arrived:
                now.arrived[i] = True
                if now.k == 0:
                    self.order.append(i)
                self._add(self.place[i], 0)
        self._add(self.used_place, used)
        if now.k == self.last and not self.overlap and not self.postponed:
            while self.sent < len(self.buckets):
                self._send()

    def _add(self, where: slice, values: Any) -> None:
        """values join the subtree sums at this place."""
        # One rounding for every leaf, whether it is stored or added.
        dtype = self.message.dtype
        values = dtype.type(values) if isinstance(values, int) else xp_of(self.message).asarray(values, dtype)
        if self.waiting:
            leaf = self.waiting[self.now.k][where]
            leaf += values
            values = leaf
        if self.postponed:
            return
        depth, carries = self.now.depth, self.now.carries
        if not carries:
            self.rows[depth][where] = values
        else:
            top = self.rows[depth - 1][where]
            top += values
            for slot in range(depth - 2, depth - carries - 1, -1):
                below = self.rows[slot][where]
                below += top
                top = below
        self._has_come(where)

    def _has_come(self, where: slice) -> None:
        """This place is filled; in the last microbatch, buckets that are complete leave."""
        if self.overlap and self.now.k == self.last:
            for b in self._buckets_of(where):
                self.missing[b] -= 1
            self.owner.send_buckets()

    # -- between ranks ---------------------------------------------------------------------------

    def send_complete(self) -> bool:
        """Send the next bucket if it is complete."""
        if self.missing[self.sent]:
            return False
        self._send()
        return True

    def _send(self) -> None:
        """Sum the next bucket over all ranks, on the helper thread where communication is to overlap."""
        bucket = self.sent
        self.sent += 1
        self.ready()
        try:
            if self.exchange is not None:
                self.exchange.depart(self.buckets[bucket])
            if self.exchange is not None and self.overlap and self.exchange.waits:
                self.requests.append(self.comm.start(self._all_reduce, self.exchange, bucket))
            elif self.exchange is not None:
                self._all_reduce(self.comm, self.exchange, bucket)
        except RankLost as error:
            self.lost = error

    def _all_reduce(self, comm: Communicator, exchange: Exchange, bucket: int) -> None:
        self.bucket = bucket
        exchange.all_reduce(comm, self.buckets[bucket])
        self.bucket = None

    def under_way(self) -> tuple[str, list[Tensor]] | None:
        """Which bucket is being summed just now, and the parameters in it; another thread may ask."""
        bucket = self.bucket
        if bucket is None:
            return None
        where, places = self.buckets[bucket], zip(self.flat.tensors, self.place, strict=True)
        tensors = [t for t, place in places if place.start < where.stop and where.start < place.stop]
        return f"bucket {bucket} of {len(self.buckets)}", tensors

    def wait(self) -> None:
        """Returns when all sums are there; raises what went wrong on the helper thread. See `wait_for_all`."""
        requests: Sequence[Any] = self.requests
        self.requests = []
        for request in requests:
            try:
                request.wait()
            except RankLost as error:  # the other requests are still to be waited for
                self.lost = error
        if self.lost is not None:
            raise self.lost
        if self.exchange is not None:
            self.exchange.arrive()
        self.waiting = []


def wait_for_all(reducers: Sequence[Reducer]) -> None:
    """Returns when all sums of all reducers are there. Raises RankLost, but not before the last of them has ended:
    what goes on with ranks that are lost would disturb those that are left."""
    lost = None
    for reducer in reducers:
        try:
            reducer.wait()
        except RankLost as error:
            lost = error
    if lost is not None:
        raise lost
