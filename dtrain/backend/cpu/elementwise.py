"""Activation functions by oneDNN, in float32 and bfloat16: one pass, over arrays that lie in memory in any order.

ReLU itself it computes wrongly where an element is NaN, which becomes 0 there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dtrain.backend.cpu.onednn import FEW, FORWARD, Arg, Context, Primitive, address, context, laid_out, new, usable
from dtrain.backend.halves import bfloat16
from dtrain.backend.reference import elementwise as reference

__all__ = ["activation", "add", "gelu", "gelu_grad", "relu_grad"]

_ADD, _GELU, _RELU_OF_RESULT = 0x1FFF0, 0x31, 0x100
#: Functions of x with factors a and b, and the form of them of which the gradient is computed: the same number where
#: that is of x, another where it is of the result. NumPy's clip keeps NaN, and is as fast. Others are left out: where
#: they are small, ELU, mish and softplus are right only beside 1, and the hard sigmoid of NaN is 1.
_KINDS: dict[str, tuple[Any, int]] = {
    "clip": (np.clip, 0x106),  # x from a to b; the gradient is 0 at both ends
    "hardswish": (0x34, 0x34),  # x max(0, min(1, a x + b))
    "leaky_relu": (0x20, 0x20),  # x > 0: x, else a x
    "sigmoid": (0x29, 0x104),
    "silu": (0x2C, 0x2C),  # x / (1 + e^(-a x))
    "tanh": (0x21, 0x101),
}


class _Elementwise:
    """The primitive of a function of so many elements, or of its gradient."""

    def __init__(
        self, context: Context, n: int, dtype: np.dtype, kind: int, gradient: bool, factors: tuple[float, float]
    ) -> None:
        lib, engine, options = context.lib, context.engine, context.attributes
        row = laid_out((n,), (dtype.itemsize,), dtype)
        hint = pd = new(
            lib.eltwise_forward_primitive_desc_create,
            engine, FORWARD, kind, row.pointer, row.pointer, *factors, options,
        )  # fmt: skip
        arguments = [(Arg.SRC, row), (Arg.DST, row)]
        if gradient:
            try:
                pd = new(
                    lib.eltwise_backward_primitive_desc_create,
                    engine, kind, row.pointer, row.pointer, row.pointer, *factors, hint, options,
                )  # fmt: skip
            finally:
                lib.primitive_desc_destroy(hint)
            kept = Arg.DST if kind >= _RELU_OF_RESULT else Arg.SRC
            arguments = [(kept, row), (Arg.DIFF_DST, row), (Arg.DIFF_SRC, row)]
        self.primitive = Primitive(context, pd, arguments)


class _Sum:
    """The primitive that adds two arrays of so many elements."""

    def __init__(self, context: Context, n: int, dtype: np.dtype) -> None:
        row = laid_out((n,), (dtype.itemsize,), dtype)
        create = context.lib.binary_primitive_desc_create
        pd = new(create, context.engine, _ADD, row.pointer, row.pointer, row.pointer, context.attributes)
        self.primitive = Primitive(context, pd, [(Arg.SRC, row), (Arg.SRC_1, row), (Arg.DST, row)])


def add(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x + y, of one shape and dtype; NumPy is as fast with any but two-byte floats."""
    made = _computed(_Sum, x, y) if x.dtype == bfloat16 else None
    return reference.add(x, y) if made is None else made


def _run(
    kind: int, gradient: bool, x: np.ndarray, *others: np.ndarray, factors: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray | None:
    """The function of x, or the gradient from x and others; None where the reference has to do it."""
    return _computed(_Elementwise, x, *others, options=(kind, gradient, factors))


def _computed(make: Any, x: np.ndarray, *others: np.ndarray, options: tuple[Any, ...] = ()) -> np.ndarray | None:
    """What the primitive makes of x and others, as they lie in memory; None where the reference has to do it."""
    if x.size < FEW or not usable(x, *others):
        return None
    c = context()
    found = c.kept(make, x.size, x.dtype, *options)
    if not found:
        return None
    out = np.empty_like(x)  # in x's order of memory, without gaps
    arrays = [a if a.strides == out.strides else _laid_as(a, out) for a in (x, *others)]
    found.primitive(*map(address, arrays), address(out), *c.scratch(found.primitive.scratchpad))
    return out


def _laid_as(x: np.ndarray, other: np.ndarray) -> np.ndarray:
    copy = np.empty_like(other)
    copy[...] = x
    return copy


def relu_grad(g: np.ndarray, y: np.ndarray) -> np.ndarray:
    """g where y = relu(x) is not 0, else 0."""
    gx = None if y.size < FEW else _run(_RELU_OF_RESULT, True, y, g)
    return reference.relu_grad(g, y) if gx is None else gx


def gelu(x: np.ndarray) -> tuple[np.ndarray, Any]:
    """x * Phi(x), and what the gradient needs: x. Of infinity this makes NaN, the reference infinity."""
    y = _run(_GELU, False, x)
    return reference.gelu(x) if y is None else (y, _Input(x))


class _Input:
    """What oneDNN's gradient of GELU needs: its input. The reference keeps a slope."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x


def gelu_grad(g: np.ndarray, kept: Any) -> np.ndarray:
    """The gradient of gelu, from what it kept."""
    if not isinstance(kept, _Input):
        return reference.gelu_grad(g, kept)
    gx = _run(_GELU, True, kept.x, g)
    return reference.gelu_grad(g, reference.gelu(kept.x)[1]) if gx is None else gx


def activation(
    name: str, x: np.ndarray, a: float = 0.0, b: float = 0.0
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]] | None:
    """The function `name` of x and its pullback; None where the op's own array code has to do it.

    Names and what a and b are in them: see _KINDS.
    """
    forwards, backwards = _KINDS[name]
    if x.size < FEW or not usable(x) or not context().kept(_Elementwise, x.size, x.dtype, backwards, True, (a, b)):
        return None
    y = forwards(x, a, b) if callable(forwards) else _run(forwards, False, x, factors=(a, b))
    if y is None:
        return None
    kept = x if forwards == backwards else y

    def pullback(g: np.ndarray) -> np.ndarray:
        gx = _run(backwards, True, kept, g.astype(kept.dtype, copy=False), factors=(a, b))
        assert gx is not None  # it is the primitive that was found above, or this thread makes the same
        return gx

    return y, pullback
