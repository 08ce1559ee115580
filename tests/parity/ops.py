"""A function of PyTorch's list, and dtrain's of the same name: values, gradients, methods, errors.

dtrain's function is found by name: `dtrain.gather`, `dtrain.nn.functional.relu`, `dtrain.linalg.norm`, else the
method of Tensor. Where PyTorch's list wraps the function in Python code, the same code is run with
`dtrain` for `torch`. A name is complete when all its samples pass: as a function, as a method of
Tensor where PyTorch has one, as an operator, and in place where dtrain has that.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
import torch

import dtrain
from dtrain.nn import functional
from tests.parity import scope
from tests.parity.compare import (
    Mismatch,
    check_gradgrad,
    check_gradients,
    check_same,
    has_gradgrad,
    tensors_of,
    without_ties,
)
from tests.parity.convert import Twins
from tests.parity.outcome import Outcome
from tests.parity.pytorch import functions, quiet, seeded
from tests.parity.refusals import check_refused

__all__ = ["names", "run"]

GRADGRAD_SAMPLES, GRADGRAD_SIZE = 4, 200
METHOD_SAMPLES = 12
SEEDS = 100  # few draws have few results: the regions of a small fractional pooling are the same for most seeds


def names() -> list[str]:
    """The names in scope."""
    return sorted(name for name in functions() if scope.why_not_function(name) is None)


def run(name: str, watch: Any = None) -> Outcome:
    """All checks of one name: "gather", "max.binary"."""
    info, outcome = functions()[name], Outcome(name, watch=watch)
    ours = find(info)
    outcome.provided = ours is not None
    dtrain.manual_seed(0)
    if ours is None:
        return outcome
    with quiet():
        for dtype in _dtypes(info):
            grad = dtype.is_floating_point and info.supports_autograd and name not in scope.WITHOUT_GRADIENTS
            make = lambda dtype=dtype, grad=grad: info.sample_inputs("cpu", dtype, requires_grad=grad)  # noqa: E731
            for i, sample in enumerate(scope.chosen(seeded(make))):
                label = f"{str(dtype).removeprefix('torch.')} {i}"
                call = _Call(info, ours, sample)
                outcome.count("samples", label, call.check, (sample,))
                if i < METHOD_SAMPLES:
                    for kind, check in call.other_ways():
                        outcome.count("samples", f"{label}, {kind}", check, (sample,))
                if grad and i < GRADGRAD_SAMPLES and info.supports_gradgrad and has_gradgrad():
                    outcome.count("gradgrad", label, call.check_gradgrad, (sample,))
        if info.error_inputs_func is not None:
            for i, error in enumerate(seeded(lambda: info.error_inputs("cpu"))):
                outcome.count("errors", str(i), lambda e=error: _check_error(info, ours, e), (error.sample_input,))
    return outcome


def _dtypes(info: Any) -> list[Any]:
    """float64; integers and bools where there is no float64, no gradient, or where people use them."""
    found = [torch.float64] if torch.float64 in info.dtypes else []
    if not found or not info.supports_autograd or info.name in scope.INTEGERS_TOO:
        found += [d for d in (torch.int64, torch.bool) if d in info.dtypes]
    return found or [torch.float32]


# -- dtrain's side -----------------------------------------------------------------------------------


def _attribute(root: Any, path: str) -> Any:
    for part in path.split("."):
        root = getattr(root, part, None)
    return root


def _method(name: str) -> Any:
    """A method or property of Tensor; None where it is not Tensor's own (`type` has an `__ror__`, too)."""
    return vars(dtrain.Tensor).get(name)


class _Namespace:
    """dtrain as wrappers see it: what it lacks as a function may be a method of Tensor."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(dtrain, name, None)
        return _method(name) if found is None else found


def find(info: Any) -> Callable[..., Any] | None:
    """dtrain's function for PyTorch's info; None where it has none."""
    if info.name == "where":
        return rebound(info.op) if hasattr(dtrain, "where") else None
    theirs = _attribute(torch, info.name)
    function = _attribute(dtrain, info.name)
    is_function = callable(theirs) and not isinstance(theirs, (type, torch.dtype))
    if not (is_function and callable(function)):
        method = _method(info.name) or _method(f"{info.name}_")
        if method is None or is_function and not _is_wrapped(info):
            return None
        function = method
    return rebound(info.op) if _is_wrapped(info) else function


def _is_wrapped(info: Any) -> bool:
    return isinstance(info.op, FunctionType) and info.op.__module__.startswith("torch.testing")


def rebound(function: Any, **names: Any) -> Any:
    """Python code of PyTorch's tests with dtrain (or `names`) in the place of torch."""
    if not isinstance(function, FunctionType) or not function.__module__.startswith("torch.testing"):
        return function
    names = names or {"torch": _Namespace(), "F": functional, "np": np, "wrapper_set_seed": _without_seed}
    scope_of = {**function.__globals__, **names}
    twin = FunctionType(function.__code__, scope_of, function.__name__, function.__defaults__, function.__closure__)
    twin.__kwdefaults__ = function.__kwdefaults__
    return twin


def _without_seed(function: Any, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


# -- one sample --------------------------------------------------------------------------------------


class _Call:
    """One sample: PyTorch's call and dtrain's."""

    def __init__(self, info: Any, ours: Any, sample: Any) -> None:
        self.info, self.ours, self.sample = info, ours, sample
        self.random = info.name in scope.RANDOM
        self.theirs = rebound(info.op, wrapper_set_seed=_without_seed) if self.random else info

    def inputs(self) -> tuple[tuple[Any, Any], tuple[Any, Any], list[tuple[Any, Any]]]:
        """Positional and keyword arguments of both sides, and their leaves."""
        scope.check_arguments(self.sample.kwargs)
        twins = Twins()
        args = twins.of((self.sample.input, *self.sample.args))
        kwargs = twins.of(self.sample.kwargs)
        return args, kwargs, twins.leaves

    def expected(self, args: Any, kwargs: Any) -> tuple[Any, bool]:
        """PyTorch's result, and whether its values mean anything."""
        if not self.random:
            return self.theirs(*args, **kwargs), self.info.name not in scope.UNDEFINED
        first: list[Any] = []
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            result = self.theirs(*args, **kwargs)
            drawn = [t.detach().clone() for t in tensors_of(result, torch.Tensor)]
            first = first or drawn
            if not all(torch.equal(a, b) for a, b in zip(first, drawn, strict=True)):
                return result, False
        return result, True

    def settled(self, got: Any, want: Any) -> Any:
        """dtrain's result with PyTorch's order of equal elements, where that is open."""
        name, args, kwargs = self.info.name, self.sample.args, self.sample.kwargs
        if name not in scope.TIES or kwargs.get("stable"):
            return got
        dim = kwargs.get("dim", args[scope.TIES[name]] if len(args) > scope.TIES[name] else -1)
        return without_ties(got, want, self.sample.input, dim)

    def check(self) -> None:
        """The function: value and gradients."""
        args, kwargs, leaves = self.inputs()
        want, values = self.expected(args[0], kwargs[0])
        got = self.settled(self.ours(*args[1], **kwargs[1]), want)
        check_same(got, want, values=values)
        if values:
            process = self.sample.output_process_fn_grad
            check_gradients(rebound(process)(got), process(want), leaves)

    def check_gradgrad(self) -> None:
        """The gradients' gradients, for small inputs."""
        args, kwargs, leaves = self.inputs()
        if self.random or sum(t.numel() for t, _ in leaves) > GRADGRAD_SIZE:
            return
        process = self.sample.output_process_fn_grad
        want = process(self.theirs(*args[0], **kwargs[0]))
        check_gradgrad(rebound(process)(self.ours(*args[1], **kwargs[1])), want, leaves)

    def other_ways(self) -> list[tuple[str, Callable[[], None]]]:
        """The same call as a method, an operator, in place: where PyTorch has that."""
        ways: list[tuple[str, Callable[[], None]]] = []
        if not isinstance(self.sample.input, torch.Tensor) or self.random or self.info.name in scope.UNDEFINED:
            return ways
        if callable(self.info.method_variant) and not self.info.name.startswith("__"):
            ways.append(("method", self._check_method))
        if self.info.operator_variant is not None and not self.sample.kwargs:
            ways.append(("operator", self._check_operator))
        if callable(self.info.inplace_variant) and _method(f"{self.info.name}_") is not None:
            ways.append(("in place", self._check_in_place))
        return ways

    def _check_method(self) -> None:
        args, kwargs, _ = self.inputs()
        with torch.no_grad(), dtrain.no_grad():
            try:
                want = self.info.method_variant(*args[0], **kwargs[0])
            except Exception:
                return  # a wrapper's arguments are not the method's
            method = _method(self.info.name)
            if method is None:
                raise Mismatch(f"Tensor has no method {self.info.name}")
            check_same(self.settled(method(*args[1], **kwargs[1]), want), want, "the method's result")

    def _check_operator(self) -> None:
        args, _, _ = self.inputs()
        with torch.no_grad(), dtrain.no_grad():
            try:
                want = self.info.operator_variant(*args[0])
            except Exception:
                return
            check_same(self.info.operator_variant(*args[1]), want, "the operator's result")

    def _check_in_place(self) -> None:
        args, kwargs, _ = self.inputs()
        with torch.no_grad(), dtrain.no_grad():
            try:
                want = self.info.inplace_variant(*args[0], **kwargs[0])
            except Exception:
                return  # a result of another shape or dtype
            if want.shape != self.sample.input.shape:
                return  # addbmm_ of a tensor that broadcasts makes it larger
            got = _method(f"{self.info.name}_")(*args[1], **kwargs[1])
            if got is not args[1][0]:
                raise Mismatch(f"{self.info.name}_ does not return its tensor")
            check_same(got, want, "the result in place")


def _check_error(info: Any, ours: Any, error: Any) -> None:
    """Raise Mismatch where dtrain takes what PyTorch refuses, or does not say what is wrong with it."""
    sample = error.sample_input
    scope.check_error(error.error_regex)
    scope.check_arguments(sample.kwargs)
    twins = Twins()
    _, args = twins.of((sample.input, *sample.args))
    _, kwargs = twins.of(sample.kwargs)
    check_refused(lambda: ours(*args, **kwargs), (args, kwargs), error.error_regex)
