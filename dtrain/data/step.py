"""A step's microbatches on one rank, and the mark that leads from a Tensor to its step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dtrain.autograd import Tensor

__all__ = ["Mark", "Step"]


class Step:
    """Loads each of this rank's microbatches of a step once, whoever asks for it first, until it is handed out.

    load(m): the batch of microbatch m. Every Tensor in it, also in tuples, lists and dicts, gets a Mark.
    """

    def __init__(self, load: Callable[[int], Any], own: Iterable[int], microbatches: int) -> None:
        self.microbatches = microbatches
        self._load = load
        self._locks = {m: threading.Lock() for m in own}
        self._loaded: dict[int, Any] = {}

    def get(self, microbatch: int) -> Any:
        """The batch of one of this rank's microbatches."""
        if microbatch not in self._locks:
            raise RuntimeError(
                f"this loader has the microbatches {list(self._locks)} of {self.microbatches}, and is asked for number "
                f"{microbatch}; give it the same comm and microbatches as the model"
            )
        with self._locks[microbatch]:
            if microbatch not in self._loaded:
                batch = self._load(microbatch)
                self._mark(batch, microbatch, ())
                self._loaded[microbatch] = batch
            return self._loaded[microbatch]

    def hand_out(self, microbatch: int) -> None:
        """It is no longer kept: its user has it."""
        self._loaded.pop(microbatch, None)

    def _mark(self, value: Any, microbatch: int, path: tuple[Any, ...]) -> None:
        if isinstance(value, Tensor):
            value.microbatch = Mark(self, microbatch, path)
        elif isinstance(value, (Mapping, tuple, list)):
            for name, member in value.items() if isinstance(value, Mapping) else enumerate(value):
                self._mark(member, microbatch, (*path, name))


class Mark(tuple[int, int]):
    """(m, M): the microbatch that a Tensor belongs to, of how many. Knows what stands in its place in others."""

    step: Step
    path: tuple[Any, ...]  # from the batch to the Tensor

    def __new__(cls, step: Step, microbatch: int, path: tuple[Any, ...]) -> Mark:
        mark = super().__new__(cls, (microbatch, step.microbatches))
        mark.step, mark.path = step, path
        return mark

    def sibling(self, microbatch: int) -> Any:
        """The Tensor in the same place of the batch of another of this rank's microbatches, one that is yet to come."""
        value = self.step.get(microbatch)
        for name in self.path:
            value = value[name]
        return value
