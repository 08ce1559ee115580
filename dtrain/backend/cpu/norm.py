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
    """Both primitives for rows (R, C) that are normalised along columns (batch) or along rows (layer).

    affine: whether there are weight and bias.
    """

    def __init__(
        self, context: Context, batch: bool, affine: bool, rows: int, columns: int, dtype: np.dtype, eps: float
    ) -> None:
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
        kind, flags = "batch" if batch else "layer", _SCALE_AND_SHIFT if affine else 0
        pd = new(
            getattr(lib, f"{kind}_normalization_forward_primitive_desc_create"),
            engine, FORWARD, x.pointer, x.pointer, *of_statistics, eps, flags, options,
        )  # fmt: skip
        try:
            back = new(
                getattr(lib, f"{kind}_normalization_backward_primitive_desc_create"),
                engine, BACKWARD, x.pointer, x.pointer, x.pointer, *of_statistics, eps, flags, pd, options,
            )  # fmt: skip
        except Exception:
            lib.primitive_desc_destroy(pd)
            raise
        of_both = [(Arg.SRC, x), (Arg.MEAN, statistics), (Arg.VARIANCE, statistics)]
        gradients, shift = [(Arg.DIFF_SRC, x)], []
        if affine:
            of_both.append((Arg.SCALE, per_column))
            shift = [(Arg.SHIFT, per_column)]
            gradients += [(Arg.DIFF_SCALE, per_column), (Arg.DIFF_SHIFT, per_column)]
        self.forward = Primitive(context, pd, [*of_both, *shift, (Arg.DST, x)])
        if not batch:
            of_both += shift  # which the layers' gradient wants, too, and that of batches refuses
        self.backward = Primitive(context, back, [*of_both, (Arg.DIFF_DST, x), *gradients])


class _Kept:
    """What a gradient needs: the key of the primitives, the rows, their statistics, weight and bias."""

    def __init__(self, *key: Any, **arrays: np.ndarray) -> None:
        self.key, self.arrays = key, arrays


def _forward(batch: bool, x: np.ndarray, weight: Any, bias: Any, eps: float) -> tuple[np.ndarray, _Kept] | None:
    """The normalised rows of x (R, C); None where the reference has to do it."""
    given = [np.ascontiguousarray(p) for p in (weight, bias) if p is not None]
    if len(given) == 1 or any(p.dtype != np.float32 for p in given) or not x.size or not usable(x):
        return None
    c, key = context(), (batch, bool(given), *x.shape, x.dtype, eps)
    found = c.kept(_Norm, *key)
    if not found:
        return None
    count = x.shape[1 if batch else 0]
    mean, var, y = np.empty(count, np.float32), np.empty(count, np.float32), np.empty_like(x)
    found.forward(*map(address, (x, mean, var, *given, y)), *c.scratch(found.forward.scratchpad))
    kept = {"x": x, "mean": mean, "var": var}
    return y, _Kept(*key, **kept, **dict(zip(("weight",) if batch else ("weight", "bias"), given, strict=False)))


def _backward(g: np.ndarray, kept: _Kept) -> tuple[np.ndarray, ...]:
    """The gradients of the rows, and of weight and bias if there are any."""
    c = context()
    found = c.kept(_Norm, *kept.key)
    gx, width = np.empty_like(kept.arrays["x"]), g.shape[1]
    others = [np.empty(width, np.float32) for _ in range(2 if "weight" in kept.arrays else 0)]
    arrays = (*kept.arrays.values(), np.ascontiguousarray(g, gx.dtype), gx, *others)
    found.backward(*map(address, arrays), *c.scratch(found.backward.scratchpad))
    return gx, *others


def _needed(found: Sequence[np.ndarray], needs: Sequence[bool]) -> list[np.ndarray | None]:
    """The gradients of x, weight and bias, those that are needed."""
    return [d if need else None for d, need in zip([*found, None, None], needs, strict=False)]


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
    return _needed([channels_first(gx.reshape(rows.shape)), *others], needs)


def layer_norm(x: np.ndarray, weight: Any, bias: Any, eps: float, centred: bool = True) -> tuple[np.ndarray, Any]:
    """`reference.layer_norm`: y, and what the gradient needs."""
    made = _forward(False, np.ascontiguousarray(x), weight, bias, eps) if centred else None
    return made or reference.layer_norm(x, weight, bias, eps, centred)


def layer_norm_grad(g: np.ndarray, kept: Any, weight: Any, needs: Sequence[bool]) -> list[np.ndarray | None]:
    """`reference.layer_norm_grad`: the gradients of x, weight and bias, those that are needed."""
    if not isinstance(kept, _Kept):
        return reference.layer_norm_grad(g, kept, weight, needs)
    return _needed(_backward(g, kept), needs)
