"""The backward passes that are under way: where they began, and what is to be called at their ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dtrain.autograd.tensor import Tensor

__all__ = ["backward_root", "on_backward_end", "under_way"]


class under_way:  # noqa: N801
    """`with under_way(root):` a backward pass from `root`; what it leaves to be called is called if it ends well.

    asked: whether anything in the pass has asked for it.
    """

    def __init__(self, root: Tensor | None) -> None:
        self.root, self.asked = root, False
        self.callbacks: list[Callable[[], None]] = []

    def __enter__(self) -> under_way:
        _walks.under_way.append(self)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        _walks.under_way.pop()
        if error is None:
            for callback in self.callbacks:
                callback()


class _Walks(threading.local):
    """The backward calls that are under way in this thread."""

    def __init__(self) -> None:
        self.under_way: list[under_way] = []

    def last(self) -> under_way:
        if not self.under_way:
            raise RuntimeError("no backward walk is under way")
        self.under_way[-1].asked = True
        return self.under_way[-1]


_walks = _Walks()


def backward_root() -> Tensor | None:
    """The tensor whose `backward()` is under way in this thread; None where a module's `backward` is.

    Raises RuntimeError outside of one.
    """
    return _walks.last().root


def on_backward_end(callback: Callable[[], None]) -> None:
    """Call `callback` once the backward walk that is under way in this thread has ended well.

    To be used from pullbacks and gradient hooks. Raises RuntimeError outside a walk.
    """
    _walks.last().callbacks.append(callback)
