"""What a pullback can be, beside a function g -> gradient of one input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dtrain.backend import Array

__all__ = ["Into", "Joint", "Pieces"]


class Joint:
    """A pullback that yields all gradients of an op at once.

    `function(g, needs)` returns a sequence with one gradient (or None) per positional input;
    `needs[i]` says whether input i wants one. Where the op returns a tuple, g is the list of the
    gradients of its elements, None for an element that was not used.
    """

    __slots__ = ("function",)

    def __init__(self, function: Callable[[Any, Sequence[bool]], Sequence[Array | None]]) -> None:
        self.function = function


class Into:
    """A pullback that can write a gradient to where it will be kept: `function(g, out)`, out an array or None."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[Any, Array | None], Array]) -> None:
        self.function = function

    def __call__(self, g: Any) -> Array:
        return self.function(g, None)


class Pieces(list[Any]):
    """Gradients of the elements of an op that returns a tuple, added element by element."""

    def __add__(self, other: list[Any]) -> Pieces:
        return Pieces(b if a is None else a if b is None else a + b for a, b in zip(self, other, strict=True))

    __iadd__ = __add__  # type: ignore[assignment]
