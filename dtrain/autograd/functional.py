"""Derivatives of functions: `torch.autograd.functional`.

`func` takes Tensors and returns a Tensor (some functions here: or a tuple of Tensors). With create_graph the results
can be differentiated again. strict=True raises RuntimeError where an output does not depend on an input; otherwise the
derivative is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.autograd.graph import grad
from dtrain.autograd.mode import enable_grad
from dtrain.autograd.op import op
from dtrain.autograd.pullbacks import Joint
from dtrain.autograd.tensor import Tensor
from dtrain.backend import xp_of

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]

Tensors = Tensor | tuple[Tensor, ...]


def _tuple(x: Any, what: str) -> tuple[Tensor, ...]:
    given = tuple(x) if isinstance(x, (tuple, list)) else (x,)
    for t in given:
        if not isinstance(t, Tensor):
            raise TypeError(f"{what} must be Tensors, got {type(t).__name__}")
    return given


def _leaves(inputs: Any, create_graph: bool) -> tuple[Tensor, ...]:
    """The inputs, ready to be differentiated; with create_graph what they were computed from is kept."""
    given = _tuple(inputs, "inputs")
    if create_graph:
        return tuple(t * 1 if t.requires_grad else t.detach().requires_grad_() for t in given)
    return tuple(t.detach().requires_grad_() for t in given)


def _call(func: Callable[..., Any], inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], bool]:
    """The outputs, and whether func returned a tuple."""
    with enable_grad():
        returned = func(*inputs)
    return _tuple(returned, "the outputs of func"), isinstance(returned, (tuple, list))


def _check_vector(v: Any, like: Sequence[Tensor], what: str) -> tuple[Tensor, ...]:
    if v is None:
        if len(like) == 1 and like[0].array.size == 1:
            return (Tensor(np.ones(like[0].shape, like[0].dtype)),)
        raise RuntimeError(f"v may be left out only for one {what} of one element, not for {[t.shape for t in like]}")
    given = _tuple(v, "v")
    if [t.shape for t in given] != [t.shape for t in like]:
        raise RuntimeError(f"v has shapes {[t.shape for t in given]}, the {what}s {[t.shape for t in like]}")
    return given


def _gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], v: Sequence[Tensor], create_graph: bool, strict: bool
) -> tuple[Tensor, ...]:
    """sum of v * d(outputs) / d(inputs), zeros where nothing depends on an input."""
    pairs = [(o, w) for o, w in zip(outputs, v, strict=True) if o.requires_grad]
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if pairs:
        some, weights = zip(*pairs, strict=True)
        found = grad(some, inputs, weights, retain_graph=True, create_graph=create_graph, allow_unused=True)
    if strict and any(g is None for g in found):
        missing = [i for i, g in enumerate(found) if g is None]
        raise RuntimeError(f"strict=True: the outputs do not depend on inputs {missing}")
    return tuple(Tensor(np.zeros(t.shape, t.dtype)) if g is None else g for t, g in zip(inputs, found, strict=True))


def _plain(results: Any, create_graph: bool) -> Any:
    return results if create_graph else tuple(t.detach() for t in results)


def _like(results: tuple[Any, ...], given: Any) -> Any:
    return results if isinstance(given, (tuple, list)) else results[0]


def vjp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(inputs), v^T J), J the Jacobian. v: of the outputs' shapes; not needed for one output of one element."""
    leaves = _leaves(inputs, create_graph)
    outputs, several = _call(func, leaves)
    gradients = _gradients(outputs, leaves, _check_vector(v, outputs, "output"), create_graph, strict)
    values = _plain(outputs, create_graph)
    return (values if several else values[0]), _like(_plain(gradients, create_graph), inputs)


def jvp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(inputs), J v). v: of the inputs' shapes. Two backward passes: u^T J is linear in u, with gradient J v."""
    leaves = _leaves(inputs, create_graph)
    vectors = _check_vector(v, leaves, "input")
    outputs, several = _call(func, leaves)
    u = tuple(Tensor(np.zeros(o.shape, o.dtype)).requires_grad_() for o in outputs)
    found = _gradients(outputs, leaves, u, True, strict)
    products = _gradients(found, u, vectors, create_graph, strict)
    values, products = _plain(outputs, create_graph), _plain(products, create_graph)
    return (values, products) if several else (values[0], products[0])


def jacobian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:
    """All derivatives of the outputs by the inputs: J[i][j] has the shape of output i, then that of input j.

    A single output, or a single input that is no tuple, has no index. One backward pass for each element of the
    outputs; vectorize and strategy change nothing.
    """
    leaves = _leaves(inputs, create_graph)
    outputs, several = _call(func, leaves)
    rows = []
    for output in outputs:
        found = []
        for place in np.ndindex(output.shape):
            one = np.zeros(output.shape, output.dtype)
            one[place] = 1
            found.append(_gradients([output], leaves, [Tensor(one)], create_graph, strict))
        row = tuple(_stacked([g[j] for g in found], output, leaf) for j, leaf in enumerate(leaves))
        rows.append(_like(_plain(row, create_graph), inputs))
    return tuple(rows) if several else rows[0]


def _stacked(parts: list[Tensor], output: Tensor, leaf: Tensor) -> Tensor:
    if not parts:
        return Tensor(np.zeros(output.shape + leaf.shape, leaf.dtype))
    return _stack(output.shape + leaf.shape, *parts)


@op
def _stack(shape: tuple[int, ...], *parts: Any) -> Any:
    """Arrays of one shape below each other, in another shape."""
    whole = xp_of(*parts).stack(parts)

    def pullback(g: Any, needs: Sequence[bool]) -> list[Any]:
        rows = g.reshape(whole.shape)
        return [None, *[rows[i] for i in range(len(parts))]]

    return whole.reshape(shape), Joint(pullback)


def _scalar(func: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Tensor:
    outputs, several = _call(func, inputs)
    if several or outputs[0].array.size != 1:
        raise RuntimeError(f"func must return one Tensor of one element, got shapes {[o.shape for o in outputs]}")
    return outputs[0]


def _gradient_of(func: Callable[..., Any], strict: bool) -> Callable[..., Any]:
    """The function that gives func's gradients."""

    def gradient(*inputs: Tensor) -> tuple[Tensor, ...]:
        output = _scalar(func, inputs)
        return _gradients([output], inputs, [Tensor(np.ones(output.shape, output.dtype))], True, strict)

    return gradient


def hessian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """All second derivatives of func, which returns one element: H[i][j] has input i's shape, then input j's."""
    found = jacobian(_gradient_of(func, strict), tuple(_tuple(inputs, "inputs")), create_graph, strict)
    return found if isinstance(inputs, (tuple, list)) else found[0][0]


def vhp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(inputs), v^T H), H the Hessian of func, which returns one element. v: of the inputs' shapes."""
    leaves = _leaves(inputs, create_graph)
    vectors = _check_vector(v, leaves, "input")
    output = _scalar(func, leaves)
    first = _gradients([output], leaves, [Tensor(np.ones(output.shape, output.dtype))], True, strict)
    products = _gradients(first, leaves, vectors, create_graph, strict)
    return _plain((output,), create_graph)[0], _like(_plain(products, create_graph), inputs)


def hvp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(inputs), H v): the same as `vhp`, for H is symmetric."""
    return vhp(func, inputs, v, create_graph, strict)
