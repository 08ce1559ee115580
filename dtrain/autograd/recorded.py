"""Gradients of gradients: an op's function and pullbacks, run again with arrays that record what is done with them.

In a walk with create_graph=True every gradient is a `Recorded`: it looks like an array to the code of ops,
but its arithmetic is made of ops of Tensors, so that the gradient can be differentiated again. A node of the
graph kept neither its inputs nor a second rule; `Again` computes the inputs once more from the leaves, then
runs the op's function with recorded inputs, and the pullbacks that this gives. The first-order path pays nothing.
What `Recorded` can do, and NumPy's functions for it, are bound in `dtrain.ops.recorded`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.autograd.graph import PASSING, Node, walk
from dtrain.autograd.mode import enable_grad
from dtrain.autograd.op import PIECE, op
from dtrain.autograd.pullbacks import Joint
from dtrain.autograd.tensor import Tensor
from dtrain.backend import NoKernelError

__all__ = ["Again", "Recorded", "as_recorded"]


class Recorded:
    """A Tensor in the clothes of an array: NumPy's attributes, operators and methods, as recorded ops."""

    __slots__ = ("tensor",)

    __array_ufunc__ = None  # array * recorded is the recorded's business
    __hash__ = object.__hash__

    #: The module that stands in for NumPy; set by dtrain.ops.recorded.
    namespace: Any = None

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __array_namespace__(self) -> Any:
        return type(self).namespace

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.array.shape

    @property
    def ndim(self) -> int:
        return self.tensor.array.ndim

    @property
    def size(self) -> int:
        return self.tensor.array.size

    @property
    def dtype(self) -> np.dtype:
        return self.tensor.array.dtype

    def __len__(self) -> int:
        return len(self.tensor.array)

    def __bool__(self) -> bool:
        return bool(self.tensor.array)

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        # NumPy would look through a sequence, and the gradient would be lost without a word.
        raise NoKernelError("it hands a recorded array to NumPy")

    def __setitem__(self, key: Any, value: Any) -> None:
        raise NoKernelError("it writes into a part of an array")


def as_recorded(x: Any) -> Any:
    """A Tensor or an array as a Recorded; None as it is."""
    if x is None or isinstance(x, Recorded):
        return x
    return Recorded(x if isinstance(x, Tensor) else Tensor(x))


@op
def _alias(x: Any) -> Any:
    """x under a node of its own, so that a walk can stop there."""
    return x, lambda g: g


class Again:
    """The recorded gradients of nodes; keeps the values that it has computed again while a walk lasts."""

    def __init__(self) -> None:
        self.values: dict[Node, Any] = {}

    def __call__(self, node: Node, g: Any, needs: Sequence[bool]) -> Sequence[Any]:
        """The gradients of the node's inputs that are needed, recorded; g is recorded too."""
        call, pullbacks = node.call, node.pullbacks
        if call is PASSING or call is not None and call.rule is PIECE:
            return [pullback(g) if need else None for pullback, need in zip(pullbacks, needs, strict=True)]
        if call is None:
            raise RuntimeError(f"op '{node.op}' cannot be differentiated twice (create_graph=True)")
        inputs = [self._tensor(a) if a.__class__ is Node else a for a in call.inputs]
        with enable_grad():
            if hasattr(call.rule, "gradients"):
                return [as_recorded(d) for d in call.rule.gradients(node, g, needs)]
            if call.rule.formula is not None:
                return _of_formula(call.rule.formula, inputs, call.kwargs, g, needs)
            try:
                return _of_function(call.rule, inputs, call.kwargs, g, needs)
            except NoKernelError as error:
                raise RuntimeError(
                    f"op '{node.op}' cannot be differentiated twice (create_graph=True): {error}; it needs a formula"
                ) from None

    def _tensor(self, node: Node) -> Tensor:
        """The tensor whose node this is: a leaf itself, else its value, computed again."""
        if node.leaf is not None:
            return _leaf(node)
        return Tensor(self._value(node), True, node)

    def _value(self, node: Node) -> Any:
        stack = [node]
        while stack:
            top = stack[-1]
            if top in self.values:
                stack.pop()
                continue
            if top.leaf is None and not hasattr(top.call, "inputs"):
                raise RuntimeError(f"op '{top.op}' cannot be differentiated twice (create_graph=True)")
            inputs = () if top.leaf is not None else top.call.inputs
            missing = [a for a in inputs if a.__class__ is Node and a not in self.values]
            if missing:
                stack += missing
                continue
            if top.leaf is not None:
                self.values[top] = _leaf(top).array
            else:
                arrays = [
                    self.values[a] if a.__class__ is Node else a.array if isinstance(a, Tensor) else a for a in inputs
                ]
                self.values[top] = top.call.rule(*arrays, **top.call.kwargs)[0]
            stack.pop()
        return self.values[node]


def _leaf(node: Node) -> Tensor:
    leaf = node.leaf() if node.leaf is not None else None
    if leaf is None:
        raise RuntimeError(
            "create_graph=True needs all tensors that the graph was made from; one of them is gone: keep a reference"
        )
    return leaf


def _of_function(function: Any, inputs: list[Any], kwargs: Any, g: Any, needs: Sequence[bool]) -> Sequence[Any]:
    """The pullbacks of the op's own function, called with arrays that record."""
    args = [(Recorded(a) if a.requires_grad else a.array) if isinstance(a, Tensor) else a for a in inputs]
    pullbacks: Any = function(*args, **kwargs)[1]
    if isinstance(pullbacks, Joint):
        found = pullbacks.function(g, needs)
    else:
        if not isinstance(pullbacks, tuple):
            pullbacks = (pullbacks,)
        found = [pullback(g) if need else None for pullback, need in zip(pullbacks, needs, strict=False)]
    return [as_recorded(d) for d in found]


def _of_formula(formula: Any, inputs: list[Any], kwargs: Any, g: Any, needs: Sequence[bool]) -> Sequence[Any]:
    """The gradients of the op's formula: a walk from its outputs to its inputs."""
    args = [_alias(a) if isinstance(a, Tensor) and a.requires_grad else a for a in inputs]
    outputs = formula(*args, **kwargs)
    if not isinstance(outputs, tuple):
        outputs, g = (outputs,), (g,)
    ends = [a.node if need else None for a, need in zip(args, needs, strict=False)]
    pairs = [(o.node, d) for o, d in zip(outputs, g, strict=True) if d is not None and o.requires_grad]
    if not pairs:
        return [None] * len(ends)
    roots, seeds = zip(*pairs, strict=True)
    return walk(roots, seeds, retain_graph=True, wanted=ends, create_graph=True)
