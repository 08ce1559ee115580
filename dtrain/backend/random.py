"""Counter-based random streams: every draw is a function of its key, never of what was drawn before elsewhere.

A stream is Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
with key (seed, purpose) and a counter made of up to three numbers, for example (step, microbatch,
call). Any rank can therefore draw what any microbatch needs, and dropout masks, shuffles and
augmentations do not depend on the number of ranks.

The only state is `key`: the position of this process in the run.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np

__all__ = ["Generator", "Key", "Purpose", "key", "manual_seed", "next_stream", "stream"]


class Purpose(IntEnum):
    """What a stream is for. Streams of different purposes never overlap."""

    GRAPH = 0  # draws of a training forward pass: dropout, noise; counter (step, microbatch, call)
    NO_GRAD = 1  # draws with gradients off; counter (step, microbatch, call)
    INIT = 2  # initial weights; counter (call,)
    SHUFFLE = 3  # order of samples; counter (epoch,)
    AUGMENT = 4  # augmentation; counter (epoch, sample)
    COMPRESSION = 5  # where compression of gradients begins; counter (step, parameter)


class Key(threading.local):
    """Where this thread is in the run: the keys of the draws to come. A new thread starts from the last seed set."""

    first_seed = 0

    def __init__(self) -> None:
        self.start(Key.first_seed)

    def start(self, seed: int) -> None:
        """Go to the beginning of a run."""
        self.seed = seed
        self.step = self.microbatch = 0
        self.calls = self.calls_without_grad = self.calls_of_init = 0

    def move_to(self, step: int, microbatch: int) -> None:
        """Draws from now on belong to this step and microbatch. Moving to the present place does nothing."""
        if (step, microbatch) != (self.step, self.microbatch):
            self.begin(step, microbatch)

    def begin(self, step: int, microbatch: int) -> None:
        """Draws from now on are the first of this step and microbatch, once more if it was begun before."""
        self.step, self.microbatch = step, microbatch
        self.calls = self.calls_without_grad = 0

    @contextmanager
    def at(self, seed: int, step: int, microbatch: int) -> Iterator[None]:
        """Draws inside belong to this place; afterwards the thread is back where it was."""
        before = dict(self.__dict__)
        self.start(seed)
        self.move_to(step, microbatch)
        try:
            yield
        finally:
            self.__dict__.update(before)


key = Key()

_MASK = (1 << 64) - 1


def manual_seed(seed: int) -> None:
    """Start all random streams of this process from `seed` (a whole number; the default is 0).

    The ranks of a job use the same seed: what differs between them is the microbatch.
    """
    Key.first_seed = int(seed)
    key.start(int(seed))


class Generator(np.random.Generator):
    """Random numbers of its own, for whatever takes a `generator`: a function of its seed and of what it drew before.

    device: accepted as in PyTorch; numbers are drawn on the CPU.
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(np.random.Philox(key=0))
        self.device = device
        self._seed = 0

    def manual_seed(self, seed: int) -> Generator:
        """Begin again, from this seed; returns the generator."""
        self._seed = int(seed)
        self.bit_generator.state = np.random.Philox(key=self._seed & _MASK).state
        return self

    def initial_seed(self) -> int:
        """The seed that it has begun from."""
        return self._seed


def stream(seed: int, purpose: Purpose, *counter: int) -> np.random.Generator:
    """The generator of key (seed, purpose) and up to three counter words; the same on every machine."""
    a, b, c = (*counter, 0, 0, 0)[:3]
    philox = np.random.Philox(
        key=np.array([seed & _MASK, int(purpose)], np.uint64),
        # Word 0 counts blocks within the stream.
        counter=np.array([0, a & _MASK, b & _MASK, c & _MASK], np.uint64),
    )
    return np.random.Generator(philox)


def next_stream(purpose: Purpose) -> np.random.Generator:
    """The next stream of the present step and microbatch (GRAPH, NO_GRAD) or of the run (INIT)."""
    if purpose is Purpose.INIT:
        key.calls_of_init += 1
        return stream(key.seed, purpose, key.calls_of_init)
    if purpose is Purpose.GRAPH:
        key.calls += 1
        call = key.calls
    else:
        key.calls_without_grad += 1
        call = key.calls_without_grad
    return stream(key.seed, purpose, key.step, key.microbatch, call)
