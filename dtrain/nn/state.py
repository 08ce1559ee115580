"""What of a module is saved and loaded: its own parameters, persistent buffers and extra state, and those below it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from dtrain.autograd import Tensor, mark_written
from dtrain.backend import to_device
from dtrain.backend.halves import is_float
from dtrain.nn.hooks import Handle
from dtrain.nn.parameter import Parameter

__all__ = ["IncompatibleKeys", "Stateful"]

_EXTRA = "_extra_state"


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict` did not find, and what it found no use for."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class _Given(dict[str, Any]):
    """The state that is being loaded, or a part of it: and what is to be written once all of it is found to fit."""

    def __init__(self, state: Mapping[str, Any], writes: list[Callable[[], None]]) -> None:
        super().__init__(state)
        self.writes = writes

    def below(self, prefix: str) -> _Given:
        return _Given({name: value for name, value in self.items() if name.startswith(prefix)}, self.writes)

    def write(self) -> None:
        for write in self.writes:
            write()
        self.writes.clear()


class Stateful:
    """The part of Module that makes state dicts and loads them; see there."""

    _state_hooks: dict[str, dict[int, Any]] | None = None  # made by the first registration

    # -- what is there ---------------------------------------------------------------------------

    def _own_tensors(self) -> Iterator[tuple[str, Tensor, bool]]:
        """(name, tensor, saved) of this module's own parameters, then of its own buffers."""
        for name, value in self.__dict__.items():
            if isinstance(value, Parameter):
                yield name, value, True
        yield from self._own_buffers()

    def _own_buffers(self) -> Iterator[tuple[str, Tensor, bool]]:
        """(name, tensor, saved) of this module's own buffers."""
        for name, saved in self.__dict__.get("_buffer_names", {}).items():
            value = self.__dict__.get(name)
            if value is not None:
                yield name, value, saved

    def _below(self) -> list[tuple[str, Stateful]]:
        """(name, module) of the children, one that is used twice twice."""
        return [(name, value) for name, value in self.__dict__.items() if isinstance(value, Stateful)]

    def get_extra_state(self) -> Any:
        """What to save beside parameters and buffers, under the key "_extra_state"; subclasses may define it.

        Raises RuntimeError where a subclass defines `set_extra_state` alone.
        """
        raise RuntimeError(f"{type(self).__name__} has set_extra_state but not get_extra_state; define both")

    def set_extra_state(self, state: Any) -> None:
        """Take what `get_extra_state` has given; subclasses that define the one define the other.

        Raises RuntimeError where a subclass defines `get_extra_state` alone.
        """
        raise RuntimeError(f"{type(self).__name__} has get_extra_state but not set_extra_state; define both")

    def _has_extra_state(self) -> bool:
        kind = type(self)
        return (
            kind.get_extra_state is not Stateful.get_extra_state or kind.set_extra_state is not Stateful.set_extra_state
        )

    # -- saving ----------------------------------------------------------------------------------

    def state_dict(
        self, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """Dotted name -> tensor of all parameters and persistent buffers, here and below.

        They share memory with the module and have no graph. destination: a dict to put them into. prefix: what names
        begin with. keep_vars: the parameters themselves.
        """
        destination = {} if destination is None else destination
        for hook in self._hooks_of_state("state_dict_pre"):
            hook(self, prefix, keep_vars)
        self._save_to_state_dict(destination, prefix, keep_vars)
        for name, child in self._below():
            child.state_dict(destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        for hook in self._hooks_of_state("state_dict_post"):
            hook(self, destination, prefix, {})
        return destination

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Put this module's own state into `destination`; subclasses may say otherwise."""
        for name, value, saved in self._own_tensors():
            if saved:
                destination[prefix + name] = value if keep_vars else value.detach()
        if self._has_extra_state():
            destination[prefix + _EXTRA] = self.get_extra_state()

    # -- loading ---------------------------------------------------------------------------------

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy values into the parameters and buffers of the same names; tensors or NumPy arrays.

        assign: make the given tensors themselves the module's parameters and buffers, in their dtype.
        Returns (missing_keys, unexpected_keys). Raises RuntimeError that lists the missing and unexpected
        ones (with strict) and those of another shape (always); then nothing was changed, unless
        a hook of `register_load_state_dict_post_hook` had to see what was loaded.
        """
        given = _Given(state_dict, [])
        missing: list[str] = []
        unexpected: list[str] = []
        errors: list[str] = []
        self._load_below(given, "", {"assign_to_params_buffers": assign}, missing, unexpected, errors)
        problems = list(errors)
        if strict:
            problems += [
                f"{kind}: {', '.join(names)}"
                for kind, names in (("missing", missing), ("unexpected", unexpected))
                if names
            ]
        if problems:
            lines = "\n".join(f"  {problem}" for problem in problems)
            raise RuntimeError(f"the state dict does not fit {type(self).__name__}:\n{lines}")
        given.write()
        return IncompatibleKeys(missing, unexpected)

    def _load_below(
        self,
        given: _Given,
        prefix: str,
        metadata: dict[str, Any],
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        """Load this module and those below it, whose names begin with `prefix`."""
        for hook in self._hooks_of_state("load_pre"):
            hook(self, given, prefix, metadata, True, missing, unexpected, errors)
        self._load_from_state_dict(given, prefix, metadata, True, missing, unexpected, errors)
        for name, child in self._below():
            below = f"{prefix}{name}."
            child._load_below(given.below(below), below, metadata, missing, unexpected, errors)
        for hook in self._hooks_of_state("load_post"):
            given.write()
            hook(self, IncompatibleKeys(missing, unexpected))

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Find this module's own state in `state_dict`, and note in the lists what is wrong; subclasses may do more.

        What is found is written when everything fits: at the end of `load_state_dict`.
        """
        writes = getattr(state_dict, "writes", [])
        known = {name: value for name, value, saved in self._own_tensors() if saved}
        for name, value in known.items():
            key = prefix + name
            if key not in state_dict:
                missing_keys.append(key)
                continue
            given = _as_tensor(state_dict[key], key, error_msgs)
            if given is None:
                continue
            if not value.ndim and given.shape == (1,):  # as PyTorch saved single numbers before its version 0.4
                given = Tensor(given.array[0])
            if given.shape != value.shape:
                error_msgs.append(f"values of another shape for {key}: {given.shape} given, {value.shape} expected")
            elif local_metadata.get("assign_to_params_buffers"):
                writes.append(lambda name=name, given=given, value=value: self._assign(name, given, value))
            else:
                writes.append(lambda given=given, value=value: _copy(given, value))
        extra = self._has_extra_state()
        if extra and prefix + _EXTRA in state_dict:
            writes.append(lambda state=state_dict[prefix + _EXTRA]: self.set_extra_state(state))
        elif extra:
            missing_keys.append(prefix + _EXTRA)
        children = {name for name, _ in self._below()}
        for key in state_dict:
            if key.startswith(prefix):
                name, dot, _ = key[len(prefix) :].partition(".")
                if name not in (children if dot else known) and not (extra and name == _EXTRA):
                    unexpected_keys.append(key)
        if not hasattr(state_dict, "writes"):
            for write in writes:
                write()

    def _assign(self, name: str, given: Tensor, before: Tensor) -> None:
        """Make `given` the parameter or buffer `name`."""
        if isinstance(before, Parameter) and not isinstance(given, Parameter):
            given = Parameter(given, requires_grad=before.requires_grad)
        elif isinstance(given, Parameter):
            given = given if isinstance(before, Parameter) else given.detach()
            given.requires_grad_(before.requires_grad)
        setattr(self, name, given)

    # -- hooks -----------------------------------------------------------------------------------

    def register_state_dict_pre_hook(self, hook: Callable[..., None]) -> Handle:
        """Call hook(module, prefix, keep_vars) before the module's state is put into a state dict."""
        return self._add_state_hook("state_dict_pre", hook)

    def register_state_dict_post_hook(self, hook: Callable[..., None]) -> Handle:
        """Call hook(module, state_dict, prefix, local_metadata) after it; it may change the state dict in place."""
        return self._add_state_hook("state_dict_post", hook)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., None]) -> Handle:
        """Call hook(module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        before the module is loaded; it may change the state dict (a copy) and the lists in place."""
        return self._add_state_hook("load_pre", hook)

    def register_load_state_dict_post_hook(self, hook: Callable[..., None]) -> Handle:
        """Call hook(module, incompatible_keys) after it and those below are loaded; it may change the lists."""
        return self._add_state_hook("load_post", hook)

    def _add_state_hook(self, kind: str, hook: Callable[..., None]) -> Handle:
        hooks = self.__dict__.setdefault("_state_hooks", {}).setdefault(kind, {})
        return Handle(hooks, hook)

    def _hooks_of_state(self, kind: str) -> list[Any]:
        return list(self._state_hooks.get(kind, {}).values()) if self._state_hooks else []


def _as_tensor(value: Any, key: str, errors: list[str]) -> Tensor | None:
    """A value of a state dict; None, and a line among the errors, where it is no array."""
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "biu" and not is_float(array.dtype):
        errors.append(f"no array for {key}: {type(value).__name__} given")
        return None
    return Tensor(array)


def _copy(given: Tensor, into: Tensor) -> None:
    into.array[...] = to_device(given.array.astype(into.dtype, copy=False), into.device)
    mark_written(into.array)
