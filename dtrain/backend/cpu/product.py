"""Products of matrices by oneDNN, in float32 and bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.backend.cpu.onednn import Arg, Context, Primitive, address, context, laid_out, new, usable
from dtrain.backend.cpu.processor import by_float32
from dtrain.backend.reference import product as reference

__all__ = ["dot", "linear", "matmul", "multiplied"]

SMALL = 1 << 19  # multiplications: NumPy is as fast with fewer of float32


class _Product:
    """A primitive for matrices of these shapes and strides."""

    def __init__(self, context: Context, dtype: np.dtype, biased: bool, *matrices: Any) -> None:
        x, y, out = (laid_out(shape, strides, dtype) for shape, strides in zip(*[iter(matrices)] * 2, strict=True))
        row = (1, matrices[-2][-1])
        biases = [laid_out(row, (row[1] * dtype.itemsize, dtype.itemsize), dtype)] if biased else []
        bias = biases[0].pointer if biases else None
        pd = new(
            context.lib.matmul_primitive_desc_create,
            context.engine, x.pointer, y.pointer, bias, out.pointer, context.attributes,
        )  # fmt: skip
        arguments = [(Arg.SRC, x), (Arg.WEIGHTS, y), (Arg.DST, out)]
        self.primitive = Primitive(context, pd, [*arguments, *((Arg.BIAS, b) for b in biases)])


def _ready(x: np.ndarray) -> np.ndarray:
    """x, or a copy, in rows or in columns without gaps."""
    size, (rows, columns) = x.itemsize, x.strides[-2:]
    fine = columns == size and rows >= size * x.shape[-1] or rows == size and columns >= size * x.shape[-2]
    return x if fine and min(x.strides) > 0 else np.ascontiguousarray(x)


def multiplied(
    x: np.ndarray, y: np.ndarray, bias: np.ndarray | None, shape: tuple[int, ...], out: np.ndarray | None = None
) -> np.ndarray | None:
    """x @ y + bias, of `shape`, in `out` if that is given; None where the reference has to do it."""
    if not usable(x, y) or not (x.size and y.size) or bias is not None and bias.dtype != x.dtype:
        return None
    out = np.empty(shape, x.dtype) if out is None else out
    x, y = _ready(x), _ready(y)
    c = context()
    found = c.kept(_Product, x.dtype, bias is not None, x.shape, x.strides, y.shape, y.strides, out.shape, out.strides)
    if not found:
        return None
    primitive = found.primitive
    if bias is None:
        primitive(address(x), address(y), address(out), *c.scratch(primitive.scratchpad))
    else:
        bias = np.ascontiguousarray(bias)
        primitive(address(x), address(y), address(out), address(bias), *c.scratch(primitive.scratchpad))
    return out


def _large(x: np.ndarray, columns: int) -> bool:
    return x.size * columns >= SMALL or x.itemsize == 2


def matmul(x: np.ndarray, y: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The product of matrices (..., I, K) and (..., K, J), or of vectors, in x's dtype; out: see the reference."""
    if _large(x, y.shape[-1]) and 2 <= x.ndim == y.ndim <= 5 and x.shape[:-2] == y.shape[:-2]:
        made = _matmul(x, y, out)
        if made is not None:
            return made
    return reference.matmul(x, y, out)


@by_float32
def _matmul(x: np.ndarray, y: np.ndarray, out: np.ndarray | None) -> np.ndarray | None:
    return multiplied(x, y, None, (*x.shape[:-1], y.shape[-1]), out)


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """x @ weight.T + bias.  x: (N, I), weight: (O, I), bias: (O,) -> (N, O), in x's dtype"""
    made = _linear(x, weight, bias) if _large(x, len(weight)) else None
    return reference.linear(x, weight, bias) if made is None else made


@by_float32
def _linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray | None:
    return multiplied(x, weight.T, bias, (len(x), len(weight)))


def dot(x: np.ndarray, y: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """np.dot of matrices: (I, K), (K, J) -> (I, J), in out if it is given."""
    made = multiplied(x, y, None, (len(x), y.shape[1]), out) if _large(x, y.shape[1]) else None
    return np.dot(x, y, out) if made is None else made
