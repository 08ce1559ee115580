"""Functions that a user hangs onto an optimizer, around its steps and its state dicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Hooked", "RemovableHandle"]


class RemovableHandle:
    """Takes a hook away again: `handle.remove()`, or at the end of `with handle:`."""

    def __init__(self, hooks: list[RemovableHandle], hook: Callable[..., Any]) -> None:
        self.hooks, self.hook = hooks, hook

    def remove(self) -> None:
        """The hook is not called any more."""
        if self in self.hooks:
            self.hooks.remove(self)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


class Hooked:
    """What has PyTorch's hooks of an optimizer. All `register_...` return a RemovableHandle.

    Hooks are called in the order in which they were registered; prepend: before those that are there.
    """

    def __init__(self) -> None:
        self._hooks: dict[str, list[RemovableHandle]] = {}

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call hook(optimizer, args, kwargs) before each step; what it returns, None or (args, kwargs), replaces them.

        args: (optimizer,) or (optimizer, closure), as in PyTorch. `step` raises RuntimeError where a hook returns
        something else.
        """
        return self._register("step_pre", hook, False)

    def register_step_post_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """Call hook(optimizer, args, kwargs) after each step."""
        return self._register("step_post", hook, False)

    def register_state_dict_pre_hook(self, hook: Callable[[Any], None], prepend: bool = False) -> RemovableHandle:
        """Call hook(optimizer) before each `state_dict()`."""
        return self._register("state_dict_pre", hook, prepend)

    def register_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call hook(optimizer, state_dict) after each `state_dict()`; what it returns, if not None, replaces that."""
        return self._register("state_dict_post", hook, prepend)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call hook(optimizer, state_dict) before each `load_state_dict`, with a shallow copy of what was given.

        What it returns, if not None, is loaded instead.
        """
        return self._register("load_state_dict_pre", hook, prepend)

    def register_load_state_dict_post_hook(self, hook: Callable[[Any], None], prepend: bool = False) -> RemovableHandle:
        """Call hook(optimizer) after each `load_state_dict`."""
        return self._register("load_state_dict_post", hook, prepend)

    def _register(self, place: str, hook: Callable[..., Any], prepend: bool) -> RemovableHandle:
        hooks = self._hooks.setdefault(place, [])
        handle = RemovableHandle(hooks, hook)
        hooks.insert(0 if prepend else len(hooks), handle)
        return handle

    def _run_hooks(self, place: str, *args: Any) -> None:
        if self._hooks:
            for handle in list(self._hooks.get(place, ())):
                handle.hook(self, *args)

    def _changed_by_hooks(self, place: str, value: Any) -> Any:
        """`value`, or what the last hook has made of it."""
        for handle in list(self._hooks.get(place, ())):
            made = handle.hook(self, value)
            value = value if made is None else made
        return value

    def _step_arguments(self, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a step, after the hooks before it."""
        kwargs: dict[str, Any] = {}
        if not self._hooks:
            return args, kwargs
        for handle in list(self._hooks.get("step_pre", ())):
            made = handle.hook(self, args, kwargs)
            if made is not None:
                if not (isinstance(made, tuple) and len(made) == 2):
                    raise RuntimeError(f"a hook before step must return None or (args, kwargs), not {made!r}")
                args, kwargs = made
        return args, kwargs
