"""DistributedDataParallel as simply as it can be said: slow, obviously right, and what the tests compare with.

Every rank keeps the gradients of each of its microbatches; after the last one all ranks gather all
of them, and each adds them up along the tree by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.autograd import Tensor, is_grad_enabled, on_backward_end
from dtrain.autograd.op import record
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
        self.step, self.synchronized = 0, False
        self.done: list[tuple[float, list[Any], list[Any]]] = []  # weight, gradients, buffers of each microbatch

    def forward(self, x: Tensor) -> Any:
        """The module's output for a microbatch of len(x) samples."""
        if not is_grad_enabled():
            return self.module(x)
        self.synchronized = False
        key.move_to(self.step, self.block.start + len(self.done))
        self.before = [b.array.copy() for b in self.module.buffers()]
        self.weight = float(len(x))
        output = self.module(x)
        return record("naive", output.array, self._enter, (output,))

    def _enter(self, g: Any) -> Any:
        """The backward pass of a microbatch begins."""
        on_backward_end(self._end_microbatch)
        return g

    def _end_microbatch(self) -> None:
        parameters, buffers = list(self.module.parameters()), list(self.module.buffers())
        gradients = [None if p.grad is None else p.grad.array.copy() for p in parameters]
        self.done.append((self.weight, gradients, [b.array.copy() for b in buffers]))
        if self.microbatches > 1:
            for b, before in zip(buffers, self.before, strict=True):
                b.array[...] = before
        for p in parameters:
            p.grad = None
        if len(self.done) < len(self.block):
            return
        leaves = [leaf for rank in self.comm.all_gather_object(self.done) for leaf in rank]
        for i, p in enumerate(parameters):
            if any(gradients[i] is not None for _, gradients, _ in leaves):
                p.grad = Tensor(self._mean([(w, gradients[i]) for w, gradients, _ in leaves], p.array))
        if self.microbatches > 1:
            for i, b in enumerate(buffers):
                made = [(w, values[i]) for w, _, values in leaves]
                if b.is_floating_point():
                    total = naive_sum([b.dtype.type(w) * (v - b.array) if w else 0 * b.array for w, v in made])
                    b.array[...] = b.array + total / sum(w for w, _ in made)
                else:
                    b.array[...] = made[0][1]
        self.done = []
        self.step, self.synchronized = self.step + 1, True

    def _mean(self, weighted: list[tuple[float, Any]], like: Any) -> Any:
        """The mean of gradients (None: zero) with their weights."""
        if self.microbatches == 1:
            return weighted[0][1]
        terms = [np.zeros_like(like) if g is None or not w else g * like.dtype.type(w) for w, g in weighted]
        return naive_sum(terms) * like.dtype.type(1 / sum(w for w, _ in weighted))
