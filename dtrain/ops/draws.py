"""Where the random draws of a forward pass come from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from dtrain.autograd import is_grad_enabled
from dtrain.autograd.mode import mode
from dtrain.backend.random import Purpose, next_stream

__all__ = ["drawing", "drawn_dtype", "next_draw"]


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
