"""Optimizer: parameter groups, state, and the loop over flat buffers. Subclasses say how one array is updated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, enable_grad
from dtrain.backend import Array
from dtrain.backend.random import key
from dtrain.nn.flat import Flat, flatten
from dtrain.optim.state import FlatState

__all__ = ["Optimizer"]

# Elements updated at a time: an update makes several passes, and these stay in the cache.
_CHUNK = 1 << 15


class Optimizer:
    """Base of all optimizers. `update` says what happens to one array; everything else is here.

    params: parameters, or dicts with "params" and options of their own. defaults: the options of groups
    that do not set them. Raises ValueError for no parameters, for one in two groups, and for non-leaves.
    """

    #: Whether `update` treats each element by itself. Then it may be given any part of a flat buffer, and the
    #: state can be sharded; where it is False (a norm per parameter, say), ZeroRedundancyOptimizer refuses.
    elementwise = True

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError("params must be an iterable of parameters or of dicts, got one tensor; pass [tensor]")
        given = list(params)
        if not given:
            raise ValueError("the optimizer got an empty list of parameters")
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self._flat_states: list[list[FlatState]] = []
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

    def _update_flat(self, state: FlatState, options: dict[str, Any]) -> None:
        data, grad = state.flat.data[state.own], state.flat.grad[state.own]
        step = state.steps[0] + 1
        if len(data) <= _CHUNK:
            self.update(data, grad, state.arrays, step, **options)
        for lo in range(0, len(data), _CHUNK) if len(data) > _CHUNK else ():
            part = slice(lo, lo + _CHUNK)
            arrays = {name: a[part] for name, a in state.arrays.items()}
            self.update(data[part], grad[part], arrays, step, **options)
        state.steps = [step] * len(state.steps)

    def _update_each(self, state: FlatState, options: dict[str, Any]) -> None:
        """Parameter by parameter: where some have no gradient, or had none before."""
        data, steps = state.flat.data[state.own], list(state.steps)
        for i, (t, _) in enumerate(state.pieces):
            if t.grad is None:
                continue
            steps[i] += 1
            part, own = state.owned(i)
            if part.start < part.stop:
                arrays = {name: a[own] for name, a in state.arrays.items()}
                g = t.grad.array.reshape(-1)[part].astype(t.dtype, copy=False)
                self.update(data[own], g, arrays, steps[i], **options)
        state.count(steps)

    def _new_state(self, flat: Flat, names: tuple[str, ...]) -> FlatState:
        return FlatState(flat, names, slice(0, len(flat.data)))

    def _states(self) -> list[list[FlatState]]:
        """The flat states of every group, made or made again where parameters have moved."""
        for i, group in enumerate(self.param_groups):
            states = self._flat_states[i]
            held = sum(len(s.pieces) for s in states)
            names = self.buffers(group)
            if held != len(group["params"]) or not all(s.is_current() and tuple(s.arrays) == names for s in states):
                self._flat_states[i] = self._rebuild(group, states)
        return self._flat_states

    def _rebuild(self, group: dict[str, Any], old: list[FlatState]) -> list[FlatState]:
        made = [self._new_state(flat, self.buffers(group)) for flat in flatten(group["params"])]
        steps = {id(t): n for state in old for t, n, _ in state.by_tensor({})}
        for state in made:
            state.count([steps.get(id(t), 0) for t, _ in state.pieces])
        for name in self.buffers(group):  # one by one: of a shard, what is whole is as large as the model
            before: dict[int, Array] = {}
            for state in (s for s in old if name in s.arrays):
                before |= {id(t): a[name] for t, _, a in state.by_tensor({name: state.whole(name)})}
            for state in made:
                for i, (t, _) in enumerate(state.pieces):
                    if id(t) in before:
                        part, own = state.owned(i)
                        state.arrays[name][own] = before[id(t)][part]
        return made

    # -- state -----------------------------------------------------------------------------------

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:
        """parameter -> {"step": count, name: Tensor}, for parameters that have been updated."""
        found = {}
        for states in self._flat_states:
            for state in states:
                for t, steps, arrays in state.by_tensor(state.arrays):
                    if steps:
                        found[t] = {"step": steps} | {n: Tensor(a.reshape(t.shape)) for n, a in arrays.items()}
        return found

    def state_nbytes(self) -> int:
        """The bytes of the state arrays that this process keeps."""
        return sum(a.nbytes for states in self._flat_states for state in states for a in state.arrays.values())

    def state_dict(self) -> dict[str, Any]:
        """{"state": {number of the parameter: state}, "param_groups": options and numbers}, as in PyTorch."""
        return self._as_dict(
            {t: {k: v if k == "step" else Tensor(v.array.copy()) for k, v in s.items()} for t, s in self.state.items()}
        )

    def _as_dict(self, state: dict[Tensor, dict[str, Any]]) -> dict[str, Any]:
        numbers = {id(p): i for i, p in enumerate(p for g in self.param_groups for p in g["params"])}
        groups = [
            {**{k: v for k, v in g.items() if k != "params"}, "params": [numbers[id(p)] for p in g["params"]]}
            for g in self.param_groups
        ]
        return {"state": dict(sorted((numbers[id(p)], s) for p, s in state.items())), "param_groups": groups}

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
        self._flat_states = [[] for _ in self.param_groups]  # all state is replaced
        for states in self._states():
            for state in states:
                # PyTorch's SGD saves no count; that there is state says that there were steps.
                given = [by_param[id(t)] for t, _ in state.pieces]
                state.count([int(values.get("step", bool(values))) for values in given])
                for i, values in enumerate(given):
                    part, own = state.owned(i)
                    for name, array in state.arrays.items():
                        value = values.get(name)
                        array[own] = 0 if value is None else np.ravel(getattr(value, "array", value))[part]
