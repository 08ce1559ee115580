"""Terms that the updates of several optimizers have in common."""

from __future__ import annotations

import math

from dtrain.backend import Array

__all__ = ["descent", "move_", "norm"]


def descent(p: Array, g: Array, weight_decay: float, maximize: bool) -> Array:
    """g, or -g to maximize, plus weight_decay * p."""
    if maximize:
        g = -g
    return g + weight_decay * p if weight_decay else g


def move_(average: Array, value: Array, share: float) -> None:
    """average = (1 - share) average + share value, in place."""
    average *= 1 - share
    average += share * value


def norm(x: Array) -> float:
    """The square root of the sum of all squares."""
    x = x.reshape(-1)
    return math.sqrt(float(x @ x))
