"""Optimizer: parameter groups, state, and the loop over flat buffers. Subclasses say how one array is updated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, enable_grad
from dtrain.backend import Array, xp_of
from dtrain.backend.random import key
from dtrain.nn.flat import Flat, flatten

__all__ = ["Optimizer"]

# Elements updated at a time: an update makes several passes, and these stay in the cache.
_CHUNK = 1 << 15


class _FlatState:
    """The state of the tensors of one Flat: arrays parallel to `flat.data`, and how often each was updated."""

    def __init__(self, flat: Flat, names: Iterable[str]) -> None:
        self.flat = flat
        self.pieces = [(t, t._flat) for t in flat.tensors]
        self.arrays: dict[str, Array] = {name: xp_of(flat.data).zeros_like(flat.data) for name in names}
        self.steps = [0] * len(flat.tensors)
        self.in_step = True  # all counts are equal

    def is_current(self) -> bool:
        """Whether the tensors still live in the Flat."""
        return all(t._flat is piece for t, piece in self.pieces)

    def has_all_gradients(self) -> bool:
        """Whether every gradient is where backward put it, in the flat buffer."""
        return all(t.grad is piece.grad for t, piece in self.pieces)


class Optimizer:
    """Base of all optimizers. `update` says what happens to one array; everything else is here.

    params: parameters, or dicts with "params" and options of their own. defaults: the options of groups
    that do not set them. Raises ValueError for no parameters, for one in two groups, and for non-leaves.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError("params must be an iterable of parameters or of dicts, got one tensor; pass [tensor]")
        given = list(params)
        if not given:
            raise ValueError("the optimizer got an empty list of parameters")
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self._flat_states: list[list[_FlatState]] = []
        for group in given if isinstance(given[0], dict) else [{"params": given}]:
            self.add_param_group(group)

    def buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        """The names of the state arrays that a parameter of the group has."""
        return ()

    def update(self, p: Array, g: Array, state: dict[str, Array], step: int, **options: Any) -> None:
        """Update the 1-D array p and its state in place from the gradient g; step counts from 1."""
        raise NotImplementedError

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Train more parameters: {"params": ..., option: value, ...}."""
        params = group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        seen = {id(p) for g in self.param_groups for p in g["params"]}
        for p in params:
            if not isinstance(p, Tensor) or not p.is_leaf:
                raise ValueError(f"an optimizer trains parameters, got {type(p).__name__} that is none")
            if id(p) in seen:
                raise ValueError(f"a parameter of shape {p.shape} is given twice")
            seen.add(id(p))
        self.param_groups.append({**self.defaults, **group, "params": params})
        self._flat_states.append([])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or set them to zero."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad.array[...] = 0

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient. closure: computes the loss again, and is returned.

        Raises RuntimeError where DistributedDataParallel still waits for microbatches of this step.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        sinks = {id(p._sink): p._sink for group in self.param_groups for p in group["params"] if p._sink is not None}
        for sink in sinks.values():
            sink.check()
        for group, states in zip(self.param_groups, self._states(), strict=True):
            options = {name: group[name] for name in self.defaults}
            for state in states:
                if state.in_step and state.has_all_gradients():
                    self._update_flat(state, options)
                else:
                    self._update_each(state, options)
        if not sinks:  # DistributedDataParallel counts steps itself
            key.move_to(key.step + 1, 0)
        return loss

    def _update_flat(self, state: _FlatState, options: dict[str, Any]) -> None:
        flat = state.flat
        step = state.steps[0] + 1
        if len(flat.data) <= _CHUNK:
            self.update(flat.data, flat.grad, state.arrays, step, **options)
        for lo in range(0, len(flat.data), _CHUNK) if len(flat.data) > _CHUNK else ():
            part = slice(lo, lo + _CHUNK)
            arrays = {name: a[part] for name, a in state.arrays.items()}
            self.update(flat.data[part], flat.grad[part], arrays, step, **options)
        state.steps = [step] * len(state.steps)

    def _update_each(self, state: _FlatState, options: dict[str, Any]) -> None:
        """Parameter by parameter: where some have no gradient, or had none before."""
        for i, (t, piece) in enumerate(state.pieces):
            if t.grad is None:
                continue
            state.steps[i] += 1
            arrays = {name: a[piece.slice] for name, a in state.arrays.items()}
            g = t.grad.array.reshape(-1).astype(t.dtype, copy=False)
            self.update(state.flat.data[piece.slice], g, arrays, state.steps[i], **options)
        state.in_step = len(set(state.steps)) == 1

    def _states(self) -> list[list[_FlatState]]:
        """The flat states of every group, made or made again where parameters have moved."""
        for i, group in enumerate(self.param_groups):
            states = self._flat_states[i]
            held = sum(len(s.pieces) for s in states)
            names = self.buffers(group)
            if held != len(group["params"]) or not all(s.is_current() and tuple(s.arrays) == names for s in states):
                self._flat_states[i] = self._rebuild(group, states)
        return self._flat_states

    def _rebuild(self, group: dict[str, Any], old: list[_FlatState]) -> list[_FlatState]:
        before = {id(t): values for t, values in _each(old)}
        made = [_FlatState(flat, self.buffers(group)) for flat in flatten(group["params"])]
        for state in made:
            for i, (t, piece) in enumerate(state.pieces):
                steps, arrays = before.get(id(t), (0, {}))
                state.steps[i] = steps
                for name in arrays.keys() & state.arrays.keys():
                    state.arrays[name][piece.slice] = arrays[name]
            state.in_step = len(set(state.steps)) == 1
        return made

    # -- state -----------------------------------------------------------------------------------

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:
        """parameter -> {"step": count, name: Tensor}, for parameters that have been updated; a copy."""
        found = {}
        for states in self._flat_states:
            for t, (steps, arrays) in _each(states):
                if steps:
                    found[t] = {"step": steps} | {n: Tensor(a.reshape(t.shape)) for n, a in arrays.items()}
        return found

    def state_dict(self) -> dict[str, Any]:
        """{"state": {number of the parameter: state}, "param_groups": options and numbers}, as in PyTorch."""
        numbers = {id(p): i for i, p in enumerate(p for g in self.param_groups for p in g["params"])}
        groups = [
            {**{k: v for k, v in g.items() if k != "params"}, "params": [numbers[id(p)] for p in g["params"]]}
            for g in self.param_groups
        ]
        state = {
            numbers[id(p)]: {k: v if k == "step" else Tensor(v.array.copy()) for k, v in s.items()}
            for p, s in self.state.items()
        }
        return {"state": dict(sorted(state.items())), "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take options and state from `state_dict`, whose tensors may be arrays.

        Raises ValueError, and changes nothing, where groups or shapes differ.
        """
        saved = state_dict["param_groups"]
        sizes = [len(g["params"]) for g in self.param_groups]
        if [len(g["params"]) for g in saved] != sizes:
            raise ValueError(
                f"the saved optimizer has groups of {[len(g['params']) for g in saved]} parameters, this one of {sizes}"
            )
        numbers = [n for g in saved for n in g["params"]]
        params = [p for g in self.param_groups for p in g["params"]]
        by_param = {id(p): state_dict["state"].get(n, {}) for n, p in zip(numbers, params, strict=True)}
        for i, p in enumerate(params):
            for name, value in by_param[id(p)].items():
                if name != "step" and value is not None and tuple(value.shape) != p.shape:
                    raise ValueError(
                        f"state {name!r} of parameter {i} has shape {tuple(value.shape)}, the parameter {p.shape}"
                    )
        for group, other in zip(self.param_groups, saved, strict=True):
            group.update({k: v for k, v in other.items() if k != "params"})
        for states in self._states():
            for state in states:
                for i, (t, piece) in enumerate(state.pieces):
                    given = by_param[id(t)]
                    # PyTorch's SGD saves no count; that there is state says that there were steps.
                    state.steps[i] = int(given.get("step", bool(given)))
                    for name, array in state.arrays.items():
                        value = given.get(name)
                        array[piece.slice] = 0 if value is None else np.ravel(getattr(value, "array", value))
                state.in_step = len(set(state.steps)) == 1


def _each(states: list[_FlatState]) -> Iterator[tuple[Tensor, tuple[int, dict[str, Array]]]]:
    for state in states:
        for (t, piece), steps in zip(state.pieces, state.steps, strict=True):
            yield t, (steps, {name: a[piece.slice] for name, a in state.arrays.items()})
