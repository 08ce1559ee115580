"""Batch and layer normalisation by oneDNN, in float32 and bfloat16; statistics, weights and biases are float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.backend.cpu.onednn import (
    BACKWARD,
    FORWARD,
    Arg,
    Context,
    Primitive,
    address,
    context,
    laid_out,
    new,
    usable,
)  # fmt: skip
from dtrain.backend.reference import norm as reference
from dtrain.backend.reference.layout import channels_first, channels_last

__all__ = ["batch_norm", "batch_norm_grad", "layer_norm", "layer_norm_grad"]

_SCALE_AND_SHIFT = 2 | 4
_FLOAT32 = np.dtype(np.float32)


class _Norm:
    """Both primitives for rows (R, C) that are normalised along columns (batch) or along rows (layer)."""

    def __init__(self, context: Context, batch: bool, rows: int, columns: int, dtype: np.dtype, eps: float) -> None:
        lib, engine, options = context.lib, context.engine, context.attributes
        size = dtype.itemsize
        per_column = laid_out((columns,), (4,), _FLOAT32)
        if batch:  # images of one row, channels last
            whole = rows * columns * size
            x = laid_out((1, columns, 1, rows), (whole, size, whole, columns * size), dtype)
            statistics, of_statistics = per_column, []
        else:
            x = laid_out((rows, columns), (columns * size, size), dtype)
            statistics = laid_out((rows,), (4,), _FLOAT32)
            of_statistics = [statistics.pointer]
        kind = "batch" if batch else "layer"
        pd = new(
            getattr(lib, f"{kind}_normalization_forward_primitive_desc_create"),
            engine, FORWARD, x.pointer, x.pointer, *of_statistics, eps, _SCALE_AND_SHIFT, options,
        )  # fmt: skip
        try:
            back = new(
                getattr(lib, f"{kind}_normalization_backward_primitive_desc_create"),
                engine, BACKWARD, x.pointer, x.pointer, x.pointer, *of_statistics, eps, _SCALE_AND_SHIFT, pd, options,
            )  # fmt: skip
        except Exception:
            lib.primitive_desc_destroy(pd)
            raise
        of_both = [(Arg.SRC, x), (Arg.MEAN, statistics), (Arg.VARIANCE, statistics), (Arg.SCALE, per_column)]
        shift = (Arg.SHIFT, per_column)
        self.forward = Primitive(context, pd, [*of_both, shift, (Arg.DST, x)])
        if not batch:
            of_both.append(shift)  # which the layers' gradient wants, too, and that of batches refuses
        gradients = [(Arg.DIFF_SRC, x), (Arg.DIFF_SCALE, per_column), (Arg.DIFF_SHIFT, per_column)]
        self.backward = Primitive(context, back, [*of_both, (Arg.DIFF_DST, x), *gradients])


class _Kept:
    """What a gradient needs: the key of the primitives, the rows, their statistics, weight and bias."""

    def __init__(self, *key: Any, **arrays: np.ndarray) -> None:
        self.key, self.arrays = key, arrays


def _forward(batch: bool, x: np.ndarray, weight: Any, bias: Any, eps: float) -> tuple[np.ndarray, _Kept] | None:
    """The normalised rows of x (R, C); None where the reference has to do it."""
    if any(p is None or p.dtype != np.float32 for p in (weight, bias)) or not x.size or not usable(x):
        return None
    c, key = context(), (batch, *x.shape, x.dtype, eps)
    found = c.kept(_Norm, *key)
    if not found:
        return None
    count = x.shape[1 if batch else 0]
    mean, var, y = np.empty(count, np.float32), np.empty(count, np.float32), np.empty_like(x)
    weight, bias = np.ascontiguousarray(weight), np.ascontiguousarray(bias)
    arrays = (x, mean, var, weight, bias, y)
    found.forward(*map(address, arrays), *c.scratch(found.forward.scratchpad))
    kept = {"x": x, "mean": mean, "var": var, "weight": weight}
    return y, _Kept(*key, **kept) if batch else _Kept(*key, **kept, bias=bias)


def _backward(g: np.ndarray, kept: _Kept) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of the rows, of weight and of bias."""
    c = context()
    found = c.kept(_Norm, *kept.key)
    gx, width = np.empty_like(kept.arrays["x"]), g.shape[1]
    of_weight, of_bias = np.empty(width, np.float32), np.empty(width, np.float32)
    arrays = (*kept.arrays.values(), np.ascontiguousarray(g, gx.dtype), gx, of_weight, of_bias)
    found.backward(*map(address, arrays), *c.scratch(found.backward.scratchpad))
    return gx, of_weight, of_bias


def batch_norm(
    x: np.ndarray, weight: Any, bias: Any, mean: Any, var: Any, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
    """`reference.batch_norm`: y, the statistics, and what the gradient needs."""
    if mean is None and x.ndim > 2:
        rows = channels_last(x)
        if made := _forward(True, rows.reshape(-1, x.shape[1]), weight, bias, eps):
            y, kept = made
            return channels_first(y.reshape(rows.shape)), kept.arrays["mean"], kept.arrays["var"], kept
    return reference.batch_norm(x, weight, bias, mean, var, eps)


def batch_norm_grad(
    g: np.ndarray, kept: Any, weight: Any, batch_statistics: bool, needs: Sequence[bool], sums: Any = None
) -> list[np.ndarray | None]:
    """`reference.batch_norm_grad`: the gradients of x, weight and bias, those that are needed."""
    if not isinstance(kept, _Kept):
        return reference.batch_norm_grad(g, kept, weight, batch_statistics, needs, sums)
    rows = channels_last(g)
    gx, *others = _backward(rows.reshape(-1, g.shape[1]), kept)
    found = [channels_first(gx.reshape(rows.shape)), *others]
    return [d if need else None for d, need in zip(found, needs, strict=False)]


def layer_norm(x: np.ndarray, weight: Any, bias: Any, eps: float, centred: bool = True) -> tuple[np.ndarray, Any]:
    """`reference.layer_norm`: y, and what the gradient needs."""
    made = _forward(False, np.ascontiguousarray(x), weight, bias, eps) if centred else None
    return made or reference.layer_norm(x, weight, bias, eps, centred)


def layer_norm_grad(g: np.ndarray, kept: Any, weight: Any, needs: Sequence[bool]) -> list[np.ndarray | None]:
    """`reference.layer_norm_grad`: the gradients of x, weight and bias, those that are needed."""
    if not isinstance(kept, _Kept):
        return reference.layer_norm_grad(g, kept, weight, needs)
    return [d if need else None for d, need in zip(_backward(g, kept), needs, strict=False)]
