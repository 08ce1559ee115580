"""Where the random draws of a forward pass come from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, is_grad_enabled
from dtrain.autograd.mode import mode
from dtrain.backend.random import Purpose, key, next_stream

__all__ = ["drawing", "drawn_dtype", "get_rng_state", "next_draw", "set_rng_state"]

_PLACE = ("step", "microbatch", "calls", "calls_without_grad", "calls_of_init")


def next_draw() -> np.random.Generator:
    """The generator of the next draw: a function of (seed, step, microbatch, call), one count with gradients on,

    one with gradients off. Op functions do not call it: they are run again where gradients of gradients are wanted.
    """
    return drawing()()


def drawing() -> Callable[[], np.random.Generator]:
    """A function that is `next_draw` as it is now: with gradients on, or off."""
    if mode.tape is not None:
        mode.tape.give_up("it draws random numbers where replays would not")
    return partial(next_stream, Purpose.GRAPH if is_grad_enabled() else Purpose.NO_GRAD)


def drawn_dtype(x: Any) -> Any:
    """The dtype in which numbers for x are drawn: float64 for float64, else float32."""
    return np.float64 if x.dtype == np.float64 else np.float32


def get_rng_state() -> Tensor:
    """Where this thread's random streams are, the seed too, for `set_rng_state`: (48,) of uint8."""
    numbers = [key.seed % (1 << 64), *(getattr(key, name) for name in _PLACE)]
    return Tensor(np.array(numbers, np.uint64).view(np.uint8))


def set_rng_state(new_state: Tensor) -> None:
    """What is drawn next is what was drawn after `get_rng_state` gave this. Raises ValueError for anything else."""
    state = np.asarray(new_state.array)
    if state.shape != (8 * (len(_PLACE) + 1),) or state.dtype != np.uint8:
        raise ValueError(f"set_rng_state needs what get_rng_state gives, got {state.dtype} of shape {state.shape}")
    key.seed, *place = np.ascontiguousarray(state).view(np.uint64).tolist()
    for name, number in zip(_PLACE, place, strict=True):
        setattr(key, name, number)
