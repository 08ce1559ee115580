"""The reducers of a model: one for each Flat of its trained parameters, as parameters lie and are trained now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dtrain.autograd import Tensor
from dtrain.nn.flat import Flat, flatten
from dtrain.parallel.reducer import Reducer

__all__ = ["Reducers"]


class Reducers(list[Reducer]):
    """Empty until `build`. make(flat, first, last): a reducer for this Flat; whether it is the first, or last, one."""

    def __init__(self, parameters: Sequence[Tensor], make: Callable[[Flat, bool, bool], Reducer]) -> None:
        super().__init__()
        self._parameters, self._make = parameters, make
        self._places: list[Any] = []  # where parameters lay when `flats` was called, and which were trained
        self._turns: list[Reducer] = []  # whose bucket leaves next

    def are_current(self) -> bool:
        """Whether parameters lie where they lay, and the same ones are trained."""
        return bool(self) and self._places == self._where()

    def _where(self) -> list[Any]:
        return [(p._flat, p.requires_grad) for p in self._parameters]

    def flats(self) -> list[Flat]:
        """The Flats of the trained parameters; what lies in none, or in another model's, is moved into new ones."""
        trained = [p for p in self._parameters if p.requires_grad]
        mine = {id(p) for p in self._parameters}
        # An optimizer may have put them into Flats of its own, one for each of its groups; these are kept.
        found = {id(p._flat.flat): p._flat.flat for p in trained if p._flat is not None}
        found = {i: f for i, f in found.items() if f.is_whole() and all(id(t) in mine for t in f.tensors)}
        apart = [p for p in trained if p._flat is None or id(p._flat.flat) not in found]
        flats = [*found.values(), *flatten(apart)]
        self._places = self._where()
        return flats

    def build(self, flats: Sequence[Flat]) -> None:
        """Make a reducer for each of these, in the place of those that there are."""
        for p in self._parameters:
            p._sink = None
        self.clear()
        for i, flat in enumerate(flats):
            self.append(self._make(flat, i == 0, i == len(flats) - 1))
        self.take_gradients()
        # Of all reducers those buckets that fill early leave early.
        turns = sorted(((b + 1) / len(r.buckets), i) for i, r in enumerate(self) for b in range(len(r.buckets)))
        self._turns = [self[i] for _, i in turns]

    def take_gradients(self) -> None:
        """From now on gradients of parameters go to the reducers."""
        for reducer in self:
            for t in reducer.flat.tensors:
                t._sink = reducer

    def send_buckets(self) -> None:
        """Let complete buckets leave: in the same order on all ranks, whatever the order in which gradients arrive."""
        while (gone := sum(r.sent for r in self)) < len(self._turns) and self._turns[gone].send_complete():
            pass

    def flats_in(self, orders: Sequence[Sequence[int]]) -> list[Flat]:
        """New Flats in which the tensors of each reducer lie in this order."""
        return [Flat([r.flat.tensors[i] for i in order]) for r, order in zip(self, orders, strict=True)]
