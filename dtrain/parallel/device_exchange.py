"""The exchange of sums that lie on GPUs: from GPU to GPU by NCCL, or by way of the host's memory.

Both work on a stream of their own, beside backward. `depart` lets it wait for the rows of a bucket, `arrive` lets the
stream of the main thread wait for the results; the host waits for neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dtrain.backend import Array, capture
from dtrain.backend.gpus import Pinned, current_stream, new_stream, pinned_zeros
from dtrain.comm import Communicator
from dtrain.parallel.exchange import Exchange, FastExchange, MessageExchange

__all__ = ["NCCLExchange", "StagedExchange"]


class _DeviceExchange(Exchange):
    def __init__(self, comm: Communicator, microbatches: int, rows: list[Array], mean_from: int | None) -> None:
        super().__init__(comm, microbatches, rows, mean_from)
        self.device = rows[0].device
        with self.device:
            self.stream = new_stream()

    def depart(self, where: slice) -> None:
        self.stream.wait_event(current_stream().record())

    def arrive(self) -> None:
        current_stream().wait_event(self.stream.record())


class NCCLExchange(_DeviceExchange):
    """All-to-all of the rows, the tree on each GPU's share, and all-gather; or NCCL's own all-reduce, not exact."""

    waits = False

    def __init__(
        self, comm: Communicator, microbatches: int, rows: list[Array], mean_from: int | None, exact: bool
    ) -> None:
        super().__init__(comm, microbatches, rows, mean_from)
        self.nccl: Any = comm.nccl
        self.inner = (MessageExchange if exact else FastExchange)(self.nccl, microbatches, rows, mean_from)

    def all_reduce(self, comm: Communicator, where: slice) -> None:
        with self.device, self.stream:
            self.inner.all_reduce(self.nccl, where)


class StagedExchange(_DeviceExchange):
    """Copies the first `held` rows to the host, where another exchange sums them, and the results back.

    open_inner: makes that one, for the rows it is given. They are pinned, the shared memory of a host's ranks too, so
    that the GPU copies by itself.
    """

    def __init__(
        self,
        comm: Communicator,
        microbatches: int,
        rows: list[Array],
        mean_from: int | None,
        held: int,
        open_inner: Callable[[list[Array]], Exchange],
    ) -> None:
        super().__init__(comm, microbatches, rows, mean_from)
        room = list(pinned_zeros((held, rows[0].size), rows[0].dtype))
        self.inner = open_inner(room)
        self.at_once = self.inner.at_once
        self.pinned = None if self.inner.rows[0] is room[0] else Pinned(self.inner.rows)
        self.copied: dict[int, Any] = {}  # by where a bucket begins: the event that its rows are on the host

    def depart(self, where: slice) -> None:
        capture.refuse("gradients go by way of the host's memory")
        super().depart(where)
        with self.stream:
            for host, row in zip(self.inner.rows, self.rows, strict=False):
                row[where].get(out=host[where], blocking=False)
            self.copied[where.start] = self.stream.record()

    def all_reduce(self, comm: Communicator, where: slice) -> None:
        self.copied.pop(where.start).synchronize()
        self.inner.all_reduce(comm, where)
        with self.device, self.stream:
            self.rows[0][where].set(self.inner.rows[0][where])
