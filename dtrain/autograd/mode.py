"""Whether operations are recorded for the backward pass, and in what precision: flags of each thread."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

__all__ = ["enable_grad", "inference_mode", "is_grad_enabled", "mode", "no_grad", "set_grad_enabled"]


class _Mode(threading.local):
    enabled = True
    # Inside of `autocast`: the dtype of matrix products and convolutions by kind of device, {"cpu": bfloat16}.
    autocast: dict[str, Any] | None = None
    # While a step is noted, to be replayed: the `Tape`.
    tape: Any = None


mode = _Mode()


def is_grad_enabled() -> bool:
    """True where operations on tensors that require gradients are recorded."""
    return mode.enabled


class set_grad_enabled:  # noqa: N801  (PyTorch's name)
    """Record operations or not: as a function at once, as a context manager or decorator for a while."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = bool(enabled)
        self.before = mode.enabled
        mode.enabled = self.enabled

    def __enter__(self) -> None:
        mode.enabled = self.enabled

    def __exit__(self, *error: object) -> None:
        mode.enabled = self.before

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        mode.enabled = self.before  # as a decorator it is to act inside the function alone
        return _decorate(function, self.enabled)


class _Scope:
    enabled: bool

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        # `@no_grad` without brackets is a call with the function.
        return super().__new__(cls) if function is None else _decorate(function, cls.enabled)

    def __init__(self) -> None:
        self.before: list[bool] = []

    def __enter__(self) -> None:
        self.before.append(mode.enabled)
        mode.enabled = self.enabled

    def __exit__(self, *error: object) -> None:
        mode.enabled = self.before.pop()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return _decorate(function, self.enabled)


class no_grad(_Scope):  # noqa: N801
    """`with no_grad():` or `@no_grad()`: operations inside are not recorded."""

    enabled = False


class enable_grad(_Scope):  # noqa: N801
    """`with enable_grad():` inside `no_grad`: operations are recorded again."""

    enabled = True


class inference_mode(_Scope):  # noqa: N801
    """`no_grad` under PyTorch's other name; with mode=False nothing changes."""

    def __new__(cls, mode: Any = True) -> Any:
        return _decorate(mode, False) if callable(mode) else object.__new__(cls)

    def __init__(self, mode: bool = True) -> None:
        super().__init__()
        self.enabled = not mode and is_grad_enabled()


def _decorate(function: Callable[..., Any], enabled: bool) -> Callable[..., Any]:
    if inspect.isgeneratorfunction(function):
        return _decorate_generator(function, enabled)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        before, mode.enabled = mode.enabled, enabled
        try:
            return function(*args, **kwargs)
        finally:
            mode.enabled = before

    return call


def _decorate_generator(function: Callable[..., Any], enabled: bool) -> Callable[..., Any]:
    """A generator whose body runs in the mode, but not what is done with its items."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Iterator[Any]:
        items = function(*args, **kwargs)
        step = _decorate(items.__next__, enabled)
        while True:
            try:
                item = step()
            except StopIteration as end:
                return end.value
            yield item

    return call
