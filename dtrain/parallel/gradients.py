"""`.grad` of the parameters around a step, whose sums are made elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dtrain.autograd import Tensor
from dtrain.backend import Array
from dtrain.parallel.reducer import Reducer

__all__ = ["Gradients"]


class Gradients:
    """Keeps the gradients from before a step, and sets those after it.

    parameters: by name. say: whether to name those that were not used, each once.
    """

    def __init__(self, parameters: Sequence[tuple[str, Tensor]], say: bool) -> None:
        self.parameters, self.say = parameters, say
        self.said: set[str] = set()

    def keep(self, reducers: Sequence[Reducer]) -> None:
        """Gradients that were not cleared are added to, as in PyTorch; their memory is about to be written."""
        tensors = [t for r in reducers for t in r.flat.tensors]
        self.had = {id(t) for t in tensors if t.grad is not None}
        self.kept: list[Array] = [r.flat.grad.copy() for r in reducers] if self.had else []
        for r, copy in zip(reducers, self.kept, strict=False):
            for t in r.flat.tensors:
                copy[t._flat.slice] = 0 if t.grad is None else t.grad.array.reshape(-1)
        for t in tensors:
            t.grad = None

    def take_back(self, reducers: Sequence[Reducer]) -> None:
        """The sums will not be there: the gradients are as they were before the step."""
        for i, r in enumerate(reducers):
            for t in r.flat.tensors:
                t.grad = None
                if id(t) in self.had:
                    t._flat.grad.array[...] = self.kept[i][t._flat.slice].reshape(t.shape)
                    t.grad = t._flat.grad

    def give(self, reducers: Sequence[Reducer], step: int) -> None:
        """The sums are there: parameters that were used get them."""
        for r, copy in zip(reducers, self.kept, strict=False):
            r.flat.grad += copy
        unused = set()
        for r in reducers:
            everyone = [True] * len(r.flat.tensors) if r.all_used else r.used.tolist()
            for t, used in zip(r.flat.tensors, everyone, strict=True):
                if used or id(t) in self.had:
                    t.grad = t._flat.grad
                elif t.requires_grad:
                    unused.add(id(t))
        if unused:
            self._name({name for name, p in self.parameters if id(p) in unused}, step)

    def _name(self, unused: set[str], step: int) -> None:
        new = sorted(unused - self.said)
        self.said |= unused
        if new and self.say:
            print(
                f"dtrain: no microbatch of step {step} used the parameters {', '.join(new)}; their grad is None",
                file=sys.stderr,
            )
