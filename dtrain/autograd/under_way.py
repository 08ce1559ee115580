"""The backward passes that are under way: where they began, and what is to be called at their ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dtrain.autograd.tensor import Tensor

__all__ = ["backward_root", "on_backward_end", "under_way"]


class _Walks(threading.local):
    """The backward calls that are under way in this thread: their roots, and what to call at their ends."""

    def __init__(self) -> None:
        self.under_way: list[tuple[Tensor | None, list[Callable[[], None]]]] = []


_walks = _Walks()


class under_way:  # noqa: N801
    """`with under_way(root):` a backward pass from `root`; what it leaves to be called is called if it ends well."""

    def __init__(self, root: Tensor | None) -> None:
        self.root = root

    def __enter__(self) -> None:
        _walks.under_way.append((self.root, []))

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        callbacks = _walks.under_way.pop()[1]
        if error is None:
            for callback in callbacks:
                callback()


def backward_root() -> Tensor | None:
    """The tensor whose `backward()` is under way in this thread; None where a module's `backward` is.

    Raises RuntimeError outside of one.
    """
    if not _walks.under_way:
        raise RuntimeError("no backward walk is under way")
    return _walks.under_way[-1][0]


def on_backward_end(callback: Callable[[], None]) -> None:
    """Call `callback` once the backward walk that is under way in this thread has ended well.

    To be used from pullbacks and gradient hooks. Raises RuntimeError outside a walk.
    """
    if not _walks.under_way:
        raise RuntimeError("no backward walk is under way")
    _walks.under_way[-1][1].append(callback)
