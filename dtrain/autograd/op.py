"""The `@op` rule: a function of arrays that returns its value and its pullbacks becomes an op on Tensors.

    @op
    def mul(x, y):
        '''x * y with broadcasting.'''
        return x * y, (lambda g: unbroadcast(g * y, x.shape),
                       lambda g: unbroadcast(g * x, y.shape))

The function sees raw arrays. It returns `(value, pullbacks)`, where pullbacks is

- one function g -> gradient, for an op of one array;
- a tuple of them, one for each of the first positional arguments;
- a `Joint`, where one kernel yields several gradients;
- None, where nothing is differentiable.

Only the pullbacks whose input needs a gradient run. A value that is a tuple makes an op with
several outputs; its pullback is a `Joint` that gets a list of gradients.

Gradients of gradients (create_graph=True) need no second rule: the function is run again with arrays that
record what is done with them, and so do its pullbacks (see `recorded.py`). A function that does what
these cannot (a hand-made kernel, writing into parts of an array) has a formula beside it, of ops:

    @softmax.formula
    def _(input, dim):
        e = (input - input.amax(dim, keepdim=True)).exp()
        return e / e.sum(dim, keepdim=True)

The function is run again at will, so it has no side effects and draws no random numbers.
`f.raw(...)` is the value of op f for arrays, for use inside other ops and their pullbacks.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from dtrain.autograd.graph import Joint, Node, Pieces
from dtrain.autograd.mode import mode
from dtrain.autograd.tensor import Tensor
from dtrain.backend import device_of, to_device

__all__ = ["PIECE", "Call", "Joint", "Rule", "cast", "op", "record"]


class Call:
    """How an op was called: what is needed to run it again."""

    __slots__ = ("inputs", "kwargs", "rule")

    def __init__(self, rule: Any, inputs: Sequence[Any], kwargs: dict[str, Any]) -> None:
        self.rule, self.inputs, self.kwargs = rule, inputs, kwargs


class Rule:
    """What an op does: its function of arrays, and the formula that is differentiated where that cannot be."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = function.__name__
        self.function = function
        self.formula: Callable[..., Any] | None = None


#: Of the nodes of the elements of a tuple: their pullbacks only pass a gradient on.
PIECE = Rule(lambda parts, i: (parts[i], None))


def op(function: Callable[..., Any]) -> Any:
    """Make a differentiable op from a function of arrays; see the module's docstring for the rule."""
    rule = Rule(function)
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            for value in kwargs.values():
                if isinstance(value, Tensor):
                    args, kwargs = _by_position(signature, args, kwargs)
                    break
        recorded = False
        arrays = []
        for a in args:
            if isinstance(a, Tensor):
                arrays.append(a.array)
                if a.requires_grad:
                    recorded = True
            else:
                arrays.append(a)
        value, pullbacks = function(*arrays, **kwargs)
        if recorded and mode.enabled and pullbacks is not None:
            return record(rule, value, pullbacks, args, kwargs)
        if value.__class__ is tuple:
            return tuple(map(Tensor, value))
        return Tensor(value)

    def raw(*args: Any, **kwargs: Any) -> Any:
        """The value for arrays. Arrays that record (those of a walk with create_graph) record this op."""
        from dtrain.autograd.recorded import as_recorded

        if not any(hasattr(a, "tensor") for a in args):
            return function(*args, **kwargs)[0]
        result = itself()(*[getattr(a, "tensor", a) for a in args], **kwargs)
        return tuple(map(as_recorded, result)) if isinstance(result, tuple) else as_recorded(result)

    def formula(definition: Callable[..., Any]) -> Callable[..., Any]:
        """`@f.formula`: the same as f, of ops of Tensors that can be differentiated again."""
        rule.formula = definition
        return definition

    itself: Any = weakref.ref(call)  # no cycle: an op that is made inside a function goes with it
    call.raw, call.formula = raw, formula  # type: ignore[attr-defined]
    return call


@op
def cast(x: Any, dtype: np.dtype, place: str) -> Any:
    """x in another dtype, elsewhere."""
    before, origin = x.dtype, device_of(x)
    return to_device(x, place).astype(dtype), lambda g: to_device(g, origin).astype(before, copy=False)


def record(rule: Any, value: Any, pullbacks: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The value as a Tensor (or a tuple of them) with a node that leads back to `args`."""
    if pullbacks.__class__ is not Joint and pullbacks.__class__ is not tuple:
        pullbacks = (pullbacks,)
    # What a node keeps of an input: its node, or what else was given. Never a computed tensor: its array is freed.
    parents = [(a._node or a.node) if isinstance(a, Tensor) and a.requires_grad else a for a in args]
    call = Call(rule, parents, kwargs)
    if pullbacks.__class__ is tuple and len(pullbacks) < len(parents):
        parents = parents[: len(pullbacks)]
    if value.__class__ is not tuple:
        node = Node(rule.name, parents, pullbacks, value.shape, call)
        return Tensor(value, True, node)
    node = Node(rule.name, parents, pullbacks, (), call)
    outputs = []
    for i, v in enumerate(value):
        if np.dtype(v.dtype).kind != "f":
            outputs.append(Tensor(v))
            continue
        passing = (_piece(i, len(value)),)
        outputs.append(
            Tensor(v, True, Node(f"{rule.name}[{i}]", (node,), passing, v.shape, Call(PIECE, (node, i), {})))
        )
    return tuple(outputs)


def _piece(i: int, n: int) -> Callable[[Any], Pieces]:
    return lambda g: Pieces(g if k == i else None for k in range(n))


def _by_position(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Move tensors given by keyword to their positions, so that they are differentiated too."""
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.args, bound.kwargs
