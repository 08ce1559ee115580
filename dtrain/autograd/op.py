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
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from dtrain.autograd.graph import Joint, Node, Pieces
from dtrain.autograd.mode import mode
from dtrain.autograd.tensor import Tensor

__all__ = ["Joint", "op", "record"]


def op(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a differentiable op from a function of arrays; see the module's docstring for the rule."""
    name = function.__name__
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
            return record(name, value, pullbacks, args)
        if value.__class__ is tuple:
            return tuple(map(Tensor, value))
        return Tensor(value)

    return call


def record(name: str, value: Any, pullbacks: Any, args: tuple[Any, ...]) -> Any:
    """The value as a Tensor (or a tuple of them) with a node that leads back to `args`."""
    if pullbacks.__class__ is not Joint:
        if pullbacks.__class__ is not tuple:
            pullbacks = (pullbacks,)
        args = args[: len(pullbacks)]
    # What a node keeps of an input: its node, or the tensor itself where it needs no gradient.
    parents = [((a._node or a.node) if a.requires_grad else a) if isinstance(a, Tensor) else None for a in args]
    if value.__class__ is not tuple:
        node = Node(name, parents, pullbacks, value.shape)
        return Tensor(value, True, node)
    node = Node(name, parents, pullbacks)
    outputs = []
    for i, v in enumerate(value):
        if np.dtype(v.dtype).kind != "f":
            outputs.append(Tensor(v))
            continue
        outputs.append(Tensor(v, True, Node(f"{name}[{i}]", (node,), (_piece(i, len(value)),), v.shape)))
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
