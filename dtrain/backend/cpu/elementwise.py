"""GELU and ReLU's gradient by oneDNN, in float32 and bfloat16: one pass, over arrays that lie in memory in any order.

ReLU itself it computes wrongly where an element is NaN, which becomes 0 there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.backend.cpu.onednn import FORWARD, Arg, Context, Primitive, address, context, laid_out, new, usable
from dtrain.backend.reference import elementwise as reference

__all__ = ["gelu", "gelu_grad", "relu_grad"]

_GELU, _RELU_OF_RESULT = 0x31, 0x100
FEW = 1 << 12  # elements: NumPy is as fast with fewer


class _Elementwise:
    """The primitive of a function of so many elements, or of its gradient."""

    def __init__(self, context: Context, kind: int, n: int, dtype: np.dtype, gradient: bool) -> None:
        lib, engine, options = context.lib, context.engine, context.attributes
        row = laid_out((n,), (dtype.itemsize,), dtype)
        hint = pd = new(
            lib.eltwise_forward_primitive_desc_create,
            engine, FORWARD, kind, row.pointer, row.pointer, 0.0, 0.0, options,
        )  # fmt: skip
        arguments = [(Arg.SRC, row), (Arg.DST, row)]
        if gradient:
            try:
                pd = new(
                    lib.eltwise_backward_primitive_desc_create,
                    engine, kind, row.pointer, row.pointer, row.pointer, 0.0, 0.0, hint, options,
                )  # fmt: skip
            finally:
                lib.primitive_desc_destroy(hint)
            kept = Arg.DST if kind == _RELU_OF_RESULT else Arg.SRC
            arguments = [(kept, row), (Arg.DIFF_DST, row), (Arg.DIFF_SRC, row)]
        self.primitive = Primitive(context, pd, arguments)


def _run(kind: int, gradient: bool, x: np.ndarray, *others: np.ndarray) -> np.ndarray | None:
    """The function of x, or the gradient from x and others; None where the reference has to do it."""
    if x.size < FEW or not usable(x, *others):
        return None
    c = context()
    found = c.kept(_Elementwise, kind, x.size, x.dtype, gradient)
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
