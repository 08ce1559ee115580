"""A reducer that leaves the sum of gradients to a communication hook."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from dtrain.backend import Array, on_gpu
from dtrain.comm import Communicator
from dtrain.nn.flat import Flat
from dtrain.parallel.exchange import Exchange
from dtrain.parallel.hooks.bucket import GradBucket, Place
from dtrain.parallel.hooks.collectives import MicrobatchMessages
from dtrain.parallel.reducer import Reducer

__all__ = ["Hook", "HookReducer"]

Hook = Callable[[GradBucket], Array]


class HookReducer(Reducer):
    """Keeps the gradients of each of the rank's microbatches apart, in a row for each, and gives slices to the hook.

    [ header | bucket 0 | bucket 1 | ... | used ]: buckets end where parameters do. Header and `used` are summed as they
    are; the header leaves first, because a leaf is divided by the step's weight, the last bucket takes `used` along.
    Gradients on a GPU are copied to the host, where hooks work, and their sums back.
    Arguments: as of Reducer; hook(bucket) -> the sum; names: of the parameters, by id; last: whether the step's
    last buckets are this reducer's.
    """

    def __init__(
        self, owner: Any, comm: Communicator, flat: Flat, microbatches: int, header: int, overlap: bool,
        hook: Hook, names: dict[int, str], last: bool,
    ) -> None:  # fmt: skip
        self.hook, self.names, self.closes_step = hook, names, last
        super().__init__(owner, comm, flat, microbatches, header, exact=True, overlap=overlap)

    def _plan(self) -> tuple[list[tuple[int, int]], int]:
        own = len(self.owner.block)
        return [(k, 0) for k in range(own)], own

    def _bucket_ends(self, first: int, size: int) -> list[int]:
        ends = [self.offset]
        limit = first
        for t in self.flat.tensors[1:]:
            start = self.offset + t._flat.slice.start
            if start - ends[-1] >= limit:
                ends.append(start)
                limit = size
        return [*ends, len(self.message)]

    def _open_exchange(self) -> Exchange:
        if on_gpu(self.message):
            from dtrain.parallel.device_exchange import StagedExchange

            rows, mean_from = self.rows, self.mean_from
            self.exchange = StagedExchange(
                self.comm, self.microbatches, rows, mean_from, len(rows), lambda room: _HookExchange(self, room)
            )
        else:
            self.exchange = _HookExchange(self, self.rows)
        return self.exchange


class _HookExchange(Exchange):
    """What is done with a slice of the message, by messages alone: hooks are for slow links."""

    def __init__(self, reducer: HookReducer, rows: list[Array]) -> None:
        super().__init__(reducer.comm, reducer.microbatches, rows, reducer.mean_from)
        self.hook, self.ends, self.closes_step = reducer.hook, reducer.ends, reducer.closes_step
        self.messages = MicrobatchMessages(reducer.comm, reducer.microbatches)
        self.places = [
            Place(reducer.names[id(t)], t, where) for t, where in zip(reducer.flat.tensors, reducer.place, strict=True)
        ]
        self.gradients_end = reducer.used_place.start

    def all_reduce(self, comm: Communicator, where: slice) -> None:
        if where.start == 0:
            self._sum(comm, where, None)
            if self.mean_from is not None:
                self._settle(self.rows[0][0])
            return
        last = where.stop > self.gradients_end
        if last:
            self._sum(comm, slice(self.gradients_end, where.stop), None)
        where = slice(where.start, min(where.stop, self.gradients_end))
        leaves = {j: row[where] for j, row in zip(self.messages.block, self.rows, strict=True)}
        if self.factor is not None:
            for leaf in leaves.values():
                leaf *= self.factor
        places = [
            replace(place, where=slice(place.where.start - where.start, place.where.stop - where.start))
            for place in self.places
            if where.start <= place.where.start < where.stop
        ]
        index = bisect_left(self.ends, where.stop) - 1
        bucket = GradBucket(self.messages, comm, index, last and self.closes_step, places, leaves)
        result: Any = self.hook(bucket)
        out = self.rows[0][where]
        if not isinstance(result, np.ndarray) or result.shape != out.shape or result.dtype != out.dtype:
            got = f"{result.dtype} {result.shape}" if isinstance(result, np.ndarray) else type(result).__name__
            raise TypeError(f"a communication hook must return the sum, an array of {out.dtype} {out.shape}, got {got}")
        out[...] = result

    def _sum(self, comm: Communicator, where: slice, factor: Any) -> None:
        rows = {j: row[where] for j, row in zip(self.messages.block, self.rows, strict=True)}
        self.rows[0][where] = self.messages.all_reduce(comm, rows)
