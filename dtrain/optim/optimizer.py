"""Optimizer: parameter groups, state, and the loop over flat buffers. Subclasses say how one array is updated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, as_one_call, enable_grad, mark_written
from dtrain.backend import Array, backend_of, capture, fetched, on_gpu
from dtrain.backend.random import key
from dtrain.nn.flat import Flat, flatten
from dtrain.optim.checks import WITHOUT_EFFECT, number
from dtrain.optim.hooks import Hooked
from dtrain.optim.state import FlatState, ShapedState, Unsure, copied, taken

__all__ = ["Optimizer"]


class Optimizer(Hooked):
    """Base of all optimizers. `update` says what happens to one array; everything else is here.

    params: parameters, (name, parameter) pairs, or dicts with "params" and options of their own. defaults: the
    options of groups that do not set them. An option may be a Tensor of one element, whose value is read at each step.
    Raises ValueError for no parameters, for one that is given twice, for non-leaves, and where only some have names.

    PyTorch's foreach, fused and capturable are accepted everywhere and change nothing: all optimizers update
    flat buffers. differentiable=True raises NotImplementedError.
    """

    #: Whether `update` treats each element by itself. Then it may be given any part of a flat buffer, and the
    #: state can be sharded; where it is False (a norm per parameter, say), `update` is given one parameter, in its
    #: shape, and ZeroRedundancyOptimizer refuses.
    elementwise = True
    #: The names of numbers that each parameter has in its state, beside the count of steps; see `advance`.
    numbers: tuple[str, ...] = ()

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        super().__init__()
        if isinstance(params, Tensor):
            raise TypeError("params must be an iterable of parameters or of dicts, got one tensor; pass [tensor]")
        given = list(params)
        if not given:
            raise ValueError("the optimizer got an empty list of parameters")
        self.defaults = defaults
        self._options = [name for name in defaults if name not in WITHOUT_EFFECT]  # what `update` gets
        self.param_groups: list[dict[str, Any]] = []
        self._flat_states: list[list[FlatState]] = []
        self._opt_called = False  # a schedule asks
        self._only_if: Array | None = None  # what the step under way depends on
        self._unsure: Unsure | None = None  # a step that a GPU may have left out
        for group in given if isinstance(given[0], dict) else [{"params": given}]:
            self.add_param_group(group)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines += [f"Parameter Group {i}", *(f"    {k}: {v}" for k, v in sorted(group.items()) if k != "params")]
        return "\n".join([*lines, ")"])

    # -- what subclasses say -----------------------------------------------------------------------

    def buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        """The names of the state arrays that a parameter of the group has."""
        return ()

    def shapes(self, shape: tuple[int, ...], group: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        """The state arrays of a parameter of this shape, and their shapes. Others than its own: elementwise=False."""
        return dict.fromkeys(self.buffers(group), shape)

    def update(self, p: Array, g: Array, state: dict[str, Any], step: int, **options: Any) -> None:
        """Update the 1-D array p and its state in place from the gradient g; step counts from 1.

        elementwise=False: p and g have the parameter's shape. State arrays are 0 before the first step.
        """
        raise NotImplementedError

    def advance(self, numbers: dict[str, float], step: int, **options: Any) -> dict[str, float]:
        """The parameter's `numbers` after the step, from those that `update` found in its state; 0 before the first."""
        return numbers

    # -- parameters ------------------------------------------------------------------------------

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Train more parameters: {"params": ..., option: value, ...}. Raises as the constructor does."""
        if not isinstance(group, dict):
            raise TypeError(f"a group is a dict with 'params' and options, got {type(group).__name__}")
        if isinstance(group["params"], set):
            raise TypeError("parameters in a set have no order that is the same in every run; use a list")
        params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        names = [p[0] for p in params if isinstance(p, tuple)]
        if names and len(names) != len(params):
            raise ValueError(
                f"{len(names)} of the group's {len(params)} parameters have names; give all of them names, or none"
            )
        params = [p[1] if isinstance(p, tuple) else p for p in params]
        seen = {id(p) for g in self.param_groups for p in g["params"]}
        for p in params:
            if not isinstance(p, Tensor) or not p.is_leaf:
                raise ValueError(f"an optimizer trains parameters, got {type(p).__name__} that is none")
            if p.array.dtype.kind == "c":
                raise TypeError(f"an optimizer trains real parameters, got one of shape {p.shape} and {p.dtype}")
            if id(p) in seen:
                raise ValueError(f"a parameter of shape {p.shape} is given twice")
            seen.add(id(p))
        made = {**self.defaults, **group, "params": params}
        if names:
            made["param_names"] = names
        if self.param_groups and ("param_names" in made) != ("param_names" in self.param_groups[0]):
            first = "with" if "param_names" in self.param_groups[0] else "without"
            raise ValueError(f"the first group has parameters {first} names, so all groups must")
        self.param_groups.append(made)
        self._flat_states.append([])

    @as_one_call
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or set them to zero."""
        for p in (p for group in self.param_groups for p in group["params"]):
            if set_to_none:
                p.grad = None
            elif p.grad is not None:
                p.grad.array[...] = 0

    # -- a step ----------------------------------------------------------------------------------

    @as_one_call
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient. closure: computes the loss again, and is returned.

        Raises RuntimeError where DistributedDataParallel still waits for microbatches of this step.
        """
        args, kwargs = self._step_arguments((self,) if closure is None else (self, closure))
        self._opt_called = True
        loss = self._step(*args[1:], **kwargs)
        self._run_hooks("step_post", args, kwargs)
        return loss

    def step_if(self, finite: Array) -> None:
        """`step()` if `finite`, an array of one truth, holds. Where updates are kernels, which look at it themselves,
        nothing waits for a GPU, and whether the step counts comes out later."""
        self._settle()
        if not on_gpu(finite) or type(self)._step is not Optimizer._step or not self.elementwise:
            capture.refuse(f"{type(self).__name__} waits for what a GradScaler has found")
            if bool(finite):
                self.step()
            return
        made = fetched(finite)

        def unsure() -> Unsure:
            return Unsure(self._flat_states, made)

        record = capture.present()
        if record is not None:
            record.checks.append(self._settle)  # before the numbers of the next step are written
            record.effect(lambda: setattr(self, "_unsure", unsure()))
        before, self._only_if = unsure(), finite
        try:
            self.step()
        finally:
            self._unsure, self._only_if = before, None
        if capture.rehearsing():
            self._settle()

    def _settle(self) -> None:
        """Count the steps that were made, now that it is to be known which were."""
        unsure, self._unsure = self._unsure, None
        if unsure is not None:
            unsure.settle(self._flat_states)

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        self._settle()
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        alone = self._check_sinks()
        record = capture.present()
        rooms = 0 if record is None else len(record.rooms)
        updated: list[tuple[dict[str, Any], FlatState]] = []
        for group, states in zip(self.param_groups, self._states(), strict=True):
            options = self._numbers(group)
            # With eps=0 what lies between parameters in a flat buffer would become 0 / 0.
            flat = self.elementwise and options.get("eps") != 0
            for state in states:
                if flat and state.in_step and state.has_all_gradients():
                    self._update_flat(state, options)
                    self._count(state, options)
                    if record is not None:
                        updated.append((group, state))
                else:
                    capture.refuse(f"{type(self).__name__} updates parameters one by one here")
                    if self._only_if is None or bool(self._only_if):
                        self._update_each(state, options)
                mark_written(state.flat.data)
        self._end_step(alone)
        if self._hooks:
            capture.refuse("the optimizer has hooks")
        if record is not None:
            self._repeat(record, record.rooms[rooms:], updated, alone)
        return loss

    def _numbers(self, group: dict[str, Any]) -> dict[str, Any]:
        return {name: number(group[name]) for name in self._options}

    def _repeat(
        self, record: Any, rooms: list[Any], updated: list[tuple[dict[str, Any], FlatState]], alone: bool
    ) -> None:
        """When the step that is captured is started again: is it the same, with which numbers; and count it."""
        arrays = [list(state.arrays.values()) for _, state in updated]

        def check() -> None:
            current = {id(state) for states in self._flat_states for state in states}
            for (_, state), kept in zip(updated, arrays, strict=True):
                here = id(state) in current and state.is_current() and state.in_step
                if not here or any(a is not b for a, b in zip(state.arrays.values(), kept, strict=True)):
                    raise capture.NotCapturable("parameters or the optimizer's state have moved")
            with capture.refilling(rooms):
                for group, state in updated:
                    self._update_flat(state, self._numbers(group))

        def again() -> None:
            self._opt_called = True
            for group, state in updated:
                self._count(state, self._numbers(group))
                mark_written(state.flat.data)
            self._end_step(alone)

        record.checks.append(check)
        record.effect(again)

    def _sinks(self) -> list[Any]:
        """What takes the parameters' gradients: DistributedDataParallel's reducers."""
        return list({id(p._sink): p._sink for g in self.param_groups for p in g["params"] if p._sink}.values())

    def _check_sinks(self) -> bool:
        """Whether there are none, after they have agreed to a step."""
        sinks = self._sinks()
        for sink in sinks:
            sink.check()
        return not sinks

    def _end_step(self, alone: bool) -> None:
        if alone:  # DistributedDataParallel counts steps itself
            key.move_to(key.step + 1, 0)

    def _update_flat(self, state: FlatState, options: dict[str, Any]) -> None:
        data, grad = state.flat.data[state.own], state.flat.grad[state.own]
        step = state.counts[0]["step"] + 1
        numbers = {name: state.counts[0][name] for name in self.numbers}

        def update(p: Array, g: Array, *arrays: Array) -> None:
            self.update(p, g, dict(zip(state.arrays, arrays, strict=True), **numbers), step, **options)

        backend_of(data).each_element(update, data, grad, *state.arrays.values(), only_if=self._only_if)

    def _count(self, state: FlatState, options: dict[str, Any]) -> None:
        step = state.counts[0]["step"] + 1
        if not self.numbers:
            state.count_all({"step": step})
            return
        numbers = {name: state.counts[0][name] for name in self.numbers}
        state.count_all({"step": step, **self.advance(numbers, step, **options)})

    def _update_each(self, state: FlatState, options: dict[str, Any]) -> None:
        """Parameter by parameter: where some have no gradient, or had none before, or it matters which one it is."""
        data, counts = state.flat.data[state.own], list(state.counts)
        for i, (t, _) in enumerate(state.pieces):
            if t.grad is None:
                continue
            step, numbers = counts[i]["step"] + 1, {name: counts[i][name] for name in self.numbers}
            counts[i] = {"step": step, **self.advance(numbers, step, **options)}
            part, own = state.owned(i)
            if part.start < part.stop:
                g = t.grad.array.astype(t.dtype, copy=False)
                if self.elementwise:
                    arrays = {name: a[own] for name, a in state.arrays.items()}
                    self.update(data[own], g.reshape(-1)[part], {**arrays, **numbers}, step, **options)
                else:
                    arrays = state.of_tensor(i, state.arrays)
                    self.update(t.array, g, {**arrays, **numbers}, step, **options)
        state.count(counts)

    def _new_state(self, flat: Flat, group: dict[str, Any]) -> FlatState:
        if self.elementwise:
            return FlatState(flat, self.buffers(group), slice(0, len(flat.data)), self.numbers)
        return ShapedState(flat, self.buffers(group), lambda shape: self.shapes(shape, group), self.numbers)

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
        made = [self._new_state(flat, group) for flat in flatten(group["params"])]
        counts = {id(t): c for state in old for t, c, _ in state.by_tensor({})}
        for state in made:
            state.count([counts.get(id(t), {}) for t, _ in state.pieces])
        for name in self.buffers(group):  # one by one: of a shard, what is whole is as large as the model
            before: dict[int, Array] = {}
            for state in (s for s in old if name in s.arrays):
                before |= {id(t): a[name] for t, _, a in state.by_tensor({name: state.whole(name)}) if name in a}
            for state in made:
                for i, (t, _) in enumerate(state.pieces):
                    if id(t) in before:
                        state.put(i, name, before[id(t)])
        return made

    # -- state -----------------------------------------------------------------------------------

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:
        """parameter -> {"step": count, name: number or Tensor}, for parameters that have been updated."""
        self._settle()
        found = {}
        for states in self._flat_states:
            for state in states:
                for t, counts, arrays in state.by_tensor(state.arrays):
                    if counts["step"]:
                        found[t] = counts | {n: Tensor(a) for n, a in arrays.items()}
        return found

    def state_nbytes(self) -> int:
        """The bytes of the state arrays that this process keeps."""
        return sum(a.nbytes for states in self._flat_states for state in states for a in state.arrays.values())

    def state_dict(self) -> dict[str, Any]:
        """{"state": {number of the parameter: state}, "param_groups": options and numbers}, as in PyTorch.

        The names in it are PyTorch's; counts and other numbers are Python's, where PyTorch has tensors.
        """
        self._run_hooks("state_dict_pre")
        return self._changed_by_hooks("state_dict_post", self._state_dict())

    def _state_dict(self) -> dict[str, Any]:
        return self._as_dict(copied(self.state))

    def _as_dict(self, state: dict[Tensor, dict[str, Any]]) -> dict[str, Any]:
        numbers = {id(p): i for i, p in enumerate(p for g in self.param_groups for p in g["params"])}
        groups = [
            {**copied({k: v for k, v in g.items() if k != "params"}), "params": [numbers[id(p)] for p in g["params"]]}
            for g in self.param_groups
        ]
        return {"state": dict(sorted((numbers[id(p)], s) for p, s in state.items())), "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take options and state from `state_dict`, whose tensors may be arrays; PyTorch's own is one.

        Raises ValueError, and changes nothing, where groups or shapes differ.
        """
        state_dict = self._changed_by_hooks("load_state_dict_pre", dict(state_dict))
        saved = state_dict["param_groups"]
        sizes = [len(g["params"]) for g in self.param_groups]
        if [len(g["params"]) for g in saved] != sizes:
            raise ValueError(
                f"the saved optimizer has groups of {[len(g['params']) for g in saved]} parameters, this one of {sizes}"
            )
        given = [[state_dict["state"].get(n, {}) for n in group["params"]] for group in saved]
        groups = [{**g, **{k: taken(v) for k, v in other.items() if k != "params"}}
                  for g, other in zip(self.param_groups, saved, strict=True)]  # fmt: skip
        self._check_state(groups, given)
        for group, new in zip(self.param_groups, groups, strict=True):
            group.update(new)
        self._load_state(given)
        self._run_hooks("load_state_dict_post")

    def _check_state(self, groups: list[dict[str, Any]], given: list[list[dict[str, Any]]]) -> None:
        """Raise ValueError unless arrays that are given for each group's parameters have the right shapes."""
        params = [(p, group) for group in groups for p in group["params"]]
        flat = [values for of_group in given for values in of_group]
        for i, ((p, group), values) in enumerate(zip(params, flat, strict=True)):
            expected: dict[str, tuple[int, ...]] = dict.fromkeys(values, p.shape) | self.shapes(p.shape, group)
            expected |= dict.fromkeys(("step", *self.numbers), ())
            for name, value in values.items():
                shape = tuple(getattr(value, "shape", ()))
                if value is not None and shape != expected[name]:
                    raise ValueError(
                        f"state {name!r} of parameter {i} has shape {shape}, and the parameter {p.shape}; "
                        f"{type(self).__name__} needs {expected[name]}"
                    )

    def _load_state(self, given: list[list[dict[str, Any]]]) -> None:
        """Take the state that is given for each group's parameters."""
        self._flat_states, self._unsure = [[] for _ in self.param_groups], None  # all state is replaced
        for group, values, states in zip(self.param_groups, given, self._states(), strict=True):
            by_param = {id(p): v for p, v in zip(group["params"], values, strict=True)}
            for state in states:
                own = [by_param[id(t)] for t, _ in state.pieces]
                # PyTorch's SGD saves no count; that there is state says that there were steps.
                state.count([{"step": bool(v), **v} for v in own])
                for i, v in enumerate(own):
                    for name in state.arrays:
                        if v.get(name) is not None:
                            value = getattr(v[name], "array", v[name])
                            state.put(i, name, value if on_gpu(value) else np.asarray(value))
