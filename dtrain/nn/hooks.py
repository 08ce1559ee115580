"""Functions that are called when a module is: before and after its forward, and before and after its backward."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from dtrain.autograd import Joint, Tensor, op

__all__ = ["Handle", "Hooked"]

#: A hook, whether it gets the keyword arguments too, and whether it is called after an error too.
Entry = tuple[Callable[..., Any], bool, bool]


class Handle:
    """Takes a hook away again: `handle.remove()`, or `with handle:` for a while."""

    numbers = itertools.count()

    def __init__(self, hooks: dict[int, Any], hook: Any, prepend: bool = False) -> None:
        self.hooks, self.id = hooks, next(Handle.numbers)
        others = dict(hooks) if prepend else {}
        if prepend:
            hooks.clear()
        hooks[self.id] = hook
        hooks.update(others)

    def remove(self) -> None:
        """Call the hook no more. Doing so twice is no error."""
        self.hooks.pop(self.id, None)

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


class Hooked:
    """The part of Module that knows its hooks; see there."""

    _call_hooks: dict[str, dict[int, Entry]] | None = None  # made by the first registration
    forward: Callable[..., Any]

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> Handle:
        """Call hook(module, args) before every forward; what it returns, unless None, takes the place of args.

        One that is no tuple stands for the only argument. with_kwargs: hook(module, args, kwargs), which returns
        None or the two that take their place. prepend: before the hooks that are there already. Returns a handle
        with `remove()`.
        """
        return self._add_hook("forward_pre", hook, prepend, with_kwargs)

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False, always_call: bool = False
    ) -> Handle:
        """Call hook(module, args, output) after every forward; what it returns, unless None, takes the output's place.

        with_kwargs: hook(module, args, kwargs, output). prepend: before the hooks that are there already.
        always_call: also where an error is raised; the output is then None. Returns a handle with `remove()`.
        """
        return self._add_hook("forward", hook, prepend, with_kwargs, always_call)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> Handle:
        """Call hook(module, grad_output) when the gradients of the outputs are there; a tuple of them, None for one
        without. What it returns, unless None, takes their place. Returns a handle with `remove()`."""
        return self._add_hook("backward_pre", hook, prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> Handle:
        """Call hook(module, grad_input, grad_output) when the gradients of the inputs are there.

        Tuples, with None for what has no gradient; grad_input has one for each positional argument. What the hook
        returns, unless None, takes the place of grad_input. Where no input needs a gradient the hook is called as soon
        as the gradients of the outputs are there. Returns a handle with `remove()`.
        """
        return self._add_hook("backward", hook, prepend)

    def _add_hook(self, kind: str, hook: Callable[..., Any], prepend: bool, *options: bool) -> Handle:
        if self._call_hooks is None:
            self.__dict__["_call_hooks"] = {k: {} for k in ("forward_pre", "forward", "backward_pre", "backward")}
        assert self._call_hooks is not None
        return Handle(self._call_hooks[kind], (hook, *options, False, False)[:3], prepend)

    def _call_hooked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The output of forward, with all hooks."""
        assert self._call_hooks is not None
        hooks, called, output = self._call_hooks, set(), None
        try:
            for hook, with_kwargs, _ in list(hooks["forward_pre"].values()):
                result = hook(self, args, kwargs) if with_kwargs else hook(self, args)
                if result is None:
                    continue
                if not with_kwargs:
                    args = result if isinstance(result, tuple) else (result,)
                elif isinstance(result, tuple) and len(result) == 2:
                    args, kwargs = result
                else:
                    raise RuntimeError(
                        "a forward pre-hook with_kwargs returns None or (args, kwargs), this one "
                        f"{type(result).__name__}"
                    )
            way = _Way(self) if hooks["backward_pre"] or hooks["backward"] else None
            output = self.forward(*(way.enter(args) if way else args), **kwargs)
            for key, (hook, with_kwargs, _) in list(hooks["forward"].items()):
                called.add(key)
                result = hook(self, args, kwargs, output) if with_kwargs else hook(self, args, output)
                output = output if result is None else result
            return way.leave(output) if way else output
        except Exception:
            for key, (hook, with_kwargs, always) in list(hooks["forward"].items()):
                if always and key not in called:
                    hook(self, args, kwargs, output) if with_kwargs else hook(self, args, output)
            raise


class _Way:
    """The gradients of one call on their way through the module."""

    def __init__(self, module: Hooked) -> None:
        self.module = module
        self.grad_output: tuple[Tensor | None, ...] = ()
        self.arguments = 0
        self.ends_here = True  # no input needs a gradient

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, with this way before them."""
        self.arguments = len(args)
        passed, places = _pass(args, self._pass_inputs)
        self.ends_here = not places
        return tuple(passed)

    def leave(self, output: Any) -> Any:
        """The output, with this way behind it."""
        if isinstance(output, Tensor):
            return _pass((output,), self._pass_outputs)[0][0]
        if isinstance(output, (tuple, list)):
            passed = _pass(output, self._pass_outputs)[0]
            return type(output)(*passed) if hasattr(output, "_fields") else type(output)(passed)
        return output

    def _pass_outputs(self, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        for hook, *_ in self._hooks("backward_pre"):
            gradients = _replaced(gradients, hook(self.module, gradients))
        self.grad_output = gradients
        if self.ends_here:
            self._pass_inputs((None,) * self.arguments)
        return gradients

    def _pass_inputs(self, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        for hook, *_ in self._hooks("backward"):
            gradients = _replaced(gradients, hook(self.module, gradients, self.grad_output))
        return gradients

    def _hooks(self, kind: str) -> list[Entry]:
        return list(self.module._call_hooks[kind].values()) if self.module._call_hooks else []


def _replaced(gradients: tuple[Tensor | None, ...], result: Any) -> tuple[Tensor | None, ...]:
    """The gradients that go on after a hook has returned `result`."""
    if result is None:
        return gradients
    given = tuple(result) if isinstance(result, (tuple, list)) else (result,)
    if len(given) != len(gradients):
        raise RuntimeError(f"a backward hook was given {len(gradients)} gradients and has returned {len(given)}")
    return given


def _pass(values: Any, function: Callable[..., Any]) -> tuple[list[Any], list[int]]:
    """The values, with all gradients of those that need one sent through `function`; and the places of these.

    function: a tuple with the gradient of every value, None for one without, -> such a tuple.
    """
    values = list(values)
    places = [i for i, v in enumerate(values) if isinstance(v, Tensor) and v.requires_grad]

    def back(pieces: Any, needs: Any) -> list[Any]:
        gradients: list[Tensor | None] = [None] * len(values)
        for i, g in zip(places, pieces, strict=True):
            if g is not None:
                gradients[i] = g.tensor if hasattr(g, "tensor") else Tensor(g)
        found = function(tuple(gradients))
        # An array that records (in a walk with create_graph) is of a type of its own.
        kind = next((type(g) for g in pieces if hasattr(g, "tensor")), None)
        chosen = [found[i] for i in places]
        return [None if g is None else kind(g) if kind else g.array for g in chosen]

    @op
    def hooks(*arrays: Any) -> Any:
        return arrays, Joint(back)

    if places:
        for i, passed in zip(places, hooks(*(values[i] for i in places)), strict=True):
            values[i] = passed
    return values, places
