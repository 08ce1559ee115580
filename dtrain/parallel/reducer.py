"""From gradients that arrive one by one to their sum over all microbatches of all ranks.

A `Reducer` looks after the parameters of one dtype and device. They lie in one flat gradient
(dtrain/nn/flat.py), in the memory of a message:

    [ header | gradients, the last layers' first | used ]

The header holds what the step needs beside gradients (samples, loss, buffers) and leaves with the
first bucket; `used` counts for each parameter how many microbatches used it and leaves with the
last. Slot 0 of the rank's subtree sums (tree.py) is this memory itself, so a rank of which all
microbatches form one subtree sends its gradients from where backward has put them. Within one host
nothing is sent: the slots of all ranks lie in shared memory, and each rank finishes the tree on its
share of the message where it lies.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.autograd import Tensor
from dtrain.backend import Array, xp_of
from dtrain.comm import Communicator, Window, shares
from dtrain.data.sampler import microbatch_block
from dtrain.nn.flat import Flat
from dtrain.parallel.exact import CHUNK, exact_allreduce
from dtrain.parallel.tree import Block, finish

__all__ = ["Reducer"]

# Bytes: MPI is fastest with messages of 1 to 4 MiB; the first is small, so that something is under way early.
_FIRST_BUCKET = 1 << 20
_BUCKET = 4 << 20


class Reducer:
    """Sums the gradients of a Flat's tensors over the microbatches of a step.

    owner: the DistributedDataParallel that it works for, which opens a microbatch when the first
    gradient arrives, and is asked before an optimizer's step. header: how many numbers travel with the
    first bucket. A step is: for each of this rank's microbatches `begin(k, weight)`, `add_header`,
    `add` for each parameter as its gradient arrives, `end`; after the last one `wait`. The sums are then
    in `message`, multiplied by 1 / header[0] except for the header itself (unless there is one
    microbatch only, whose gradients are left as they are).
    """

    def __init__(
        self, owner: Any, comm: Communicator, flat: Flat, microbatches: int, header: int, overlap: bool
    ) -> None:
        if flat.data.dtype not in (np.float32, np.float64):
            raise TypeError(
                f"gradients of dtype {flat.data.dtype} cannot be summed exactly; "
                "use float32 or float64 parameters: model.to(dtrain.float32)"
            )
        self.owner = owner
        self.comm, self.flat, self.microbatches, self.overlap = comm, flat, microbatches, overlap
        blocks = [Block(microbatch_block(r, comm.size, microbatches)) for r in range(comm.size)]
        self.block, self.held = blocks[comm.rank], [block.nodes for block in blocks]
        self.most_slots = max(block.slots for block in blocks)
        line = 64 // flat.data.dtype.itemsize
        self.offset = -(-header // line) * line
        self.header_size = header
        n = self.offset + len(flat.grad) + len(flat.tensors)
        self.window: Window | None = None
        # Between hosts buckets travel while backward goes on; within one, sums are made in place at its end.
        self.try_window = not overlap
        self._lie_in(list(xp_of(flat.data).zeros((self.block.slots, n), flat.data.dtype)))
        self.order: list[int] = []  # in which the gradients of the microbatch arrived
        self.index = {id(t): i for i, t in enumerate(flat.tensors)}
        self._cut_buckets()
        self.last = len(self.block.plan) - 1
        self.requests: list[Any] = []
        self.factor: float | None = None

    def _lie_in(self, slots: list[Array]) -> None:
        """Let the subtree sums, and with the first of them the gradients, lie in these arrays."""
        self.slots = slots
        self.message = slots[0]
        self.header = self.message[: self.header_size]
        self.used = self.message[len(self.message) - len(self.flat.tensors) :]
        self.flat.move_gradients(self.message, self.offset)

    def _move_to_window(self) -> None:
        """Move the sums into memory that all ranks share, where it can be had.

        The first time that they are exchanged: at that point all ranks do the same in the same order.
        """
        self.try_window = False
        n, most, dtype = len(self.message), self.most_slots, self.message.dtype
        self.window = self.comm.window((most * n + most) * dtype.itemsize)
        if self.window is not None:
            parts = [part.view(dtype) for part in self.window.parts]
            # Of each rank: its slots, and beside them what their headers say of the number of samples.
            self.theirs = [list(part[: most * n].reshape(most, n)) for part in parts]
            self.samples = [part[most * n :] for part in parts]
            own = self.theirs[self.comm.rank]
            for new, old in zip(own, self.slots, strict=False):
                new[...] = old
            self._lie_in(own)

    def _cut_buckets(self) -> None:
        """Slices of the message, and for each the number of tensors that reach into it."""
        n, size = len(self.message), self.message.dtype.itemsize
        ends = [min(n, max(_FIRST_BUCKET // size, self.offset))]
        while ends[-1] < n:
            ends.append(min(n, ends[-1] + _BUCKET // size))
        self.buckets = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        self.ends = ends
        self.things = [0] * len(self.buckets)  # how many things each bucket waits for
        self.place = [
            slice(self.offset + t._flat.slice.start, self.offset + t._flat.slice.stop) for t in self.flat.tensors
        ]
        self.used_place = slice(n - len(self.flat.tensors), n)
        for where in (*self.place, slice(0, len(self.header)), self.used_place):
            for b in self._buckets_of(where):
                self.things[b] += 1

    def _buckets_of(self, where: slice) -> range:
        """The buckets into which a slice of the message reaches."""
        first = bisect_right(self.ends, where.start)
        return range(first, bisect_right(self.ends, max(where.start, where.stop - 1)) + 1)

    # -- one microbatch --------------------------------------------------------------------------

    def begin(self, k: int, weight: float) -> None:
        """The k-th microbatch of this rank comes next; its gradients count `weight` times."""
        self.k = k
        # With one microbatch there is nothing to weigh: its bits are those of a plain loop.
        self.weight = None if self.microbatches == 1 else self.message.dtype.type(weight)
        self.depth, self.carries = self.block.plan[k]
        self.arrived = [False] * len(self.flat.tensors)
        self.order = []
        self.missing = list(self.things)
        self.sent = 0

    def add_header(self, values: Array) -> None:
        """Add this microbatch's header."""
        self._add(slice(0, len(values)), values)

    def add(self, tensor: Tensor, g: Array) -> None:
        """Add the gradient of a parameter in this microbatch."""
        self.owner.open_microbatch()
        i = self.index[id(tensor)]
        self.arrived[i] = True
        self.order.append(i)
        values = g.reshape(-1)
        if self.weight is not None:
            # What has no weight may be NaN: the loss of a microbatch without samples is.
            values = values * self.weight if self.weight else 0
        self._add(self.place[i], values)

    def check(self) -> None:
        """Raise RuntimeError unless all microbatches of the step are in."""
        self.owner.check_complete()

    def end(self) -> None:
        """The backward walk of this microbatch is over: what has not arrived is zero."""
        used = np.array(self.arrived, self.message.dtype)
        for i, arrived in enumerate(self.arrived):
            if not arrived:
                self.arrived[i] = True
                self.order.append(i)
                self._add(self.place[i], 0)
        self._add(self.used_place, used)
        if self.k == self.last and self.try_window:
            self._move_to_window()
        if self.k == self.last and self.window is not None:
            self._exchange_in(self.window)
        elif self.k == self.last:
            while self.sent < len(self.buckets):
                self._send()

    def _add(self, where: slice, values: Any) -> None:
        """values join the subtree sums at this place; in the last microbatch, buckets that are complete leave."""
        # One rounding for every leaf, whether it is stored or added.
        values = xp_of(self.message).asarray(values, self.message.dtype)
        if not self.carries:
            self.slots[self.depth][where] = values
        else:
            top = self.slots[self.depth - 1][where]
            top += values
            for slot in range(self.depth - 2, self.depth - self.carries - 1, -1):
                below = self.slots[slot][where]
                below += top
                top = below
        if self.overlap and self.k == self.last:
            for b in self._buckets_of(where):
                self.missing[b] -= 1
            while self.sent < len(self.buckets) and not self.missing[self.sent]:
                self._send()

    # -- between ranks ---------------------------------------------------------------------------

    def _send(self) -> None:
        """Sum the next bucket over all ranks, on the helper thread where communication is to overlap."""
        bucket = self.sent
        self.sent += 1
        if self.overlap:
            self.requests.append(self.comm.start(self._exchange, bucket))
        else:
            self._exchange(self.comm, bucket)

    def _exchange(self, comm: Communicator, bucket: int) -> None:
        where = self.buckets[bucket]
        parts = [slot[where] for slot in self.slots[: len(self.block.nodes)]]
        scale: Callable[[], float | None] = (lambda: None) if bucket == 0 else (lambda: self.factor)
        exact_allreduce(comm, self.held, parts, self.message[where], self.microbatches, scale)
        if bucket == 0 and self.microbatches > 1:
            # Only now the number of samples is known; the other buckets come after this one.
            total = float(self.header[0])
            self.factor = 1 / total if total else 0.0
            self.message[self.offset : where.stop] *= self.message.dtype.type(self.factor)

    def _exchange_in(self, window: Window) -> None:
        """Finish the tree on this rank's share of the message, reading and writing that of all ranks in place."""
        for i in range(len(self.block.nodes)):
            self.samples[self.comm.rank][i] = self.slots[i][0]
        window.meet()
        held = [(r, i, node) for r, nodes in enumerate(self.held) for i, node in enumerate(nodes)]
        factor = None
        if self.microbatches > 1:
            # Read here: the headers themselves are being summed by the rank whose share they are.
            total = np.empty(1, self.message.dtype)
            finish({node: self.samples[r][i : i + 1].copy() for r, i, node in held}, self.microbatches, total)
            factor = self.message.dtype.type(1 / float(total[0]) if total[0] else 0.0)
        cuts = shares(len(self.message), self.comm.size)
        lo, hi = cuts[self.comm.rank], cuts[self.comm.rank + 1]
        for start in range(lo, hi, CHUNK):
            part = slice(start, min(start + CHUNK, hi))
            finish({node: self.theirs[r][i][part] for r, i, node in held}, self.microbatches, self.message[part])
            if factor is not None:
                self.message[max(start, self.offset) : part.stop] *= factor
            for other in self.theirs:
                if other is not self.slots:
                    other[0][part] = self.message[part]
        window.meet()

    def wait(self) -> None:
        """Returns when all sums are there; raises what went wrong on the helper thread."""
        requests: Sequence[Any] = self.requests
        self.requests = []
        for request in requests:
            request.wait()
