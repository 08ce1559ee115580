"""DistributedDataParallel as simply as it can be said: slow, obviously right, and what the tests compare with.

Every rank keeps the gradients of each of its microbatches; after the last one all ranks gather all
of them, and each adds them up along the tree by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, is_grad_enabled, on_backward_end
from dtrain.autograd.op import op
from dtrain.backend import capture
from dtrain.backend.random import key
from dtrain.comm import Communicator
from dtrain.data.sampler import microbatch_block
from dtrain.nn.module import Module
from dtrain.parallel.tree import naive_sum

__all__ = ["NaiveDistributedDataParallel"]


class NaiveDistributedDataParallel(Module):
    """The gradients, and buffers, of DistributedDataParallel; for a module with one output."""

    def __init__(self, module: Module, comm: Communicator, microbatches: int) -> None:
        super().__init__()
        self.module, self.comm, self.microbatches = module, comm, microbatches
        self.block = microbatch_block(comm.rank, comm.size, microbatches)
        self.step, self.synchronized, self.postponed = 0, False, False
        self.done: list[_Microbatch] = []
        self.waiting: list[list[_Microbatch]] = []  # of steps inside no_sync

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Steps in here are summed with the next one outside."""
        self.postponed = True
        yield
        self.postponed = False

    def forward(self, x: Tensor) -> Any:
        """The module's output for a microbatch of len(x) samples."""
        capture.refuse("the naive twin of DistributedDataParallel")
        if not is_grad_enabled():
            return self.module(x)
        self.synchronized = False
        key.move_to(self.step, self.block.start + len(self.done))
        self.before = [b.array.copy() for b in self.module.buffers()]
        if self.waiting:
            self._set_buffers(self.waiting[-1][len(self.done)].buffers)
        self.start = [b.array.copy() for b in self.module.buffers()]
        self.weight = float(len(x))
        return self._enter(self.module(x))

    def _enter(self, output: Tensor) -> Tensor:
        """The output; where its gradient arrives, the backward pass of a microbatch begins."""

        def begin(g: Any) -> Any:
            on_backward_end(self._end_microbatch)
            return g

        @op
        def naive(x: Any) -> Any:
            return x, begin

        return naive(output)

    def _set_buffers(self, values: Sequence[Any]) -> None:
        for b, value in zip(self.module.buffers(), values, strict=True):
            b.array[...] = value

    def _end_microbatch(self) -> None:
        parameters = list(self.module.parameters())
        gradients = [None if p.grad is None else p.grad.array.copy() for p in parameters]
        buffers = [b.array.copy() for b in self.module.buffers()]
        self.done.append(_Microbatch(self.weight, gradients, self.start, buffers))
        if self.microbatches > 1:
            self._set_buffers(self.before)
        for p in parameters:
            p.grad = None
        if len(self.done) < len(self.block):
            return
        self.waiting.append(self.done)
        self.done, self.step, self.synchronized = [], self.step + 1, not self.postponed
        if self.synchronized:
            ranks = self.comm.all_gather_object(self.waiting)
            self._sum([list(steps) for rank in ranks for steps in zip(*rank, strict=True)])
            self.waiting = []

    def _sum(self, leaves: list[list[_Microbatch]]) -> None:
        """leaves[j]: what microbatch j was in each of the steps that are summed together."""
        for i, p in enumerate(self.module.parameters()):
            if any(m.gradients[i] is not None for steps in leaves for m in steps):
                p.grad = Tensor(self._mean([[(m.weight, m.gradients[i]) for m in steps] for steps in leaves], p.array))
        if self.microbatches > 1:
            for i, b in enumerate(self.module.buffers()):
                if b.is_floating_point():
                    changes = [[(m.weight, m.buffers[i] - m.start[i]) for m in steps] for steps in leaves]
                    b.array[...] = b.array + self._mean(changes, b.array, divide=True)
                else:
                    b.array[...] = leaves[0][-1].buffers[i]

    def _mean(self, leaves: list[list[tuple[float, Any]]], like: Any, divide: bool = False) -> Any:
        """The mean of gradients (None: zero) with their weights, times the number of steps."""
        terms = []
        for steps in leaves:
            term = np.zeros_like(like)
            for w, g in steps:
                if g is not None and w:
                    term = term + (g if self.microbatches == 1 else g * like.dtype.type(w))
            terms.append(term)
        if self.microbatches == 1:
            return terms[0]
        total, number = sum(w for steps in leaves for w, _ in steps), like.dtype.type(len(leaves[0]))
        mean = naive_sum(terms) / total if divide else naive_sum(terms) * like.dtype.type(1 / total)
        return mean * number


@dataclass
class _Microbatch:
    weight: float
    gradients: list[Any]
    start: list[Any]  # the buffers before it
    buffers: list[Any]  # and after it
