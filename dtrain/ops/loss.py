"""Losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.autograd import Joint, Tensor, op
from dtrain.autograd.mode import mode
from dtrain.backend import Array, backend_of, capture, on_gpu, xp_of
from dtrain.backend.halves import HALVES, halved
from dtrain.ops.dtypes import in_float32, same_dtype

__all__ = ["binary_cross_entropy_with_logits", "cross_entropy", "mse_loss"]


def _reduce(loss: Array, total: Any, reduction: str) -> tuple[Array, Any]:
    """The loss by `reduction`, and what its gradient is for each element (one number, or an array of loss's shape).

    total: what "mean" divides by.
    """
    if reduction == "none":
        return loss, lambda g: g
    if reduction == "sum":
        return loss.sum(), lambda g: g
    if reduction != "mean":
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if total.__class__ is not int and on_gpu(total):  # the same without waiting for the number
        xp, wide = xp_of(total), total.astype(np.float64)
        scale = xp.where(wide == 0, np.nan, 1 / wide).astype(loss.dtype)
        return loss.sum() * scale, lambda g: xp.where(wide == 0, 0, g * scale).astype(g.dtype)
    if not total:  # the mean of nothing; it moves nothing either
        return loss.sum() * loss.dtype.type(np.nan), lambda g: xp_of(loss).zeros(loss.shape, loss.dtype)
    scale = loss.dtype.type(1 / float(total))
    whole = np.add.reduce(loss, None) if loss.__class__ is np.ndarray else loss.sum()  # the same, with less Python
    return whole * scale, lambda g: g * scale


def _same_shape(name: str, input: Array, target: Array) -> None:  # noqa: A002
    if input.shape != target.shape:
        raise ValueError(f"{name}: input of shape {input.shape} and target of shape {target.shape} must have one shape")
    same_dtype(name, input, target)


@in_float32
@op
def mse_loss(input: Any, target: Any, reduction: str = "mean") -> Any:  # noqa: A002
    """(input - target)^2, its mean or sum. input, target: one shape; NaN is the mean of nothing.

    Raises ValueError for other shapes.
    """
    _same_shape("mse_loss", input, target)
    difference = input - target
    value, spread = _reduce(difference * difference, difference.size, reduction)
    return value, (lambda g: 2 * spread(g) * difference, lambda g: -2 * spread(g) * difference)


@in_float32
@op
def binary_cross_entropy_with_logits(
    input: Any,  # noqa: A002
    target: Any,
    weight: Any = None,
    reduction: str = "mean",
    pos_weight: Any = None,
) -> Any:
    """-[pos_weight * t * log s(x) + (1 - t) * log(1 - s(x))] * weight, s the logistic function.

    Computed as (1 - t) x + (1 + (pos_weight - 1) t) (log(1 + exp(-|x|)) + max(-x, 0)), which cannot overflow. Raises
    ValueError for other shapes.
    """
    _same_shape("binary_cross_entropy_with_logits", input, target)
    x, t, xp = input, target, xp_of(input)
    factor = 1 if pos_weight is None else 1 + (pos_weight - 1) * t
    softplus = xp.log1p(xp.exp(-xp.abs(x))) + xp.maximum(-x, 0)  # log(1 + exp(-x))
    loss = (1 - t) * x + factor * softplus
    if weight is not None:
        loss = loss * weight
    value, spread = _reduce(loss, loss.size, reduction)

    def outer(g: Array) -> Array:
        return spread(g) if weight is None else spread(g) * weight

    sigmoid = 0.5 + 0.5 * xp.tanh(0.5 * x)
    return value, (
        lambda g: outer(g) * ((1 - t) - factor * (1 - sigmoid)),
        lambda g: outer(g) * (-x if pos_weight is None else (pos_weight - 1) * softplus - x),
    )


def cross_entropy(
    input: Any,  # noqa: A002
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """-log softmax(input)[target], averaged. input: (N, C, ...) or (C,), target: (N, ...) of class numbers

    or of input's shape with probabilities. weight: (C,) class weights; "mean" divides by the sum of
    the targets' weights. Samples whose target is ignore_index count nothing.
    With label_smoothing s the target is (1 - s) one-hot + s / C (Szegedy et al., arXiv:1512.00567).
    Inside of `autocast` the loss is computed, and is, in float32.
    Raises IndexError for a class outside [0, C), naming the sample; ValueError for shapes that do not fit and for an
    ignore_index of probabilities; TypeError for weights of another dtype than input's.
    """
    options = (weight, ignore_index, reduction, label_smoothing)
    of_classes = mode.autocast is not None and weight is None and target.dtype.kind in "iu"
    return (_of_halves if of_classes and input.dtype in HALVES else _cross_entropy)(input, target, *options)


@op(halves=True)
def _of_halves(input: Any, target: Any, *options: Any) -> Any:  # noqa: A002
    """The same for class numbers and logits in two bytes, which are read as they are; the loss is in float32."""
    value, pullback = _cross_entropy_of(input, target, *options)
    return value, lambda g: halved(pullback(g), input.dtype)


@in_float32
@op
def _cross_entropy(input: Any, target: Any, *options: Any) -> Any:  # noqa: A002
    return _cross_entropy_of(input, target, *options)


def _cross_entropy_of(
    input: Any,  # noqa: A002
    target: Any,
    weight: Any,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> Any:
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing must be in [0, 1], got {label_smoothing}")
    if not input.ndim or weight is not None and weight.shape != (input.shape[min(1, input.ndim - 1)],):
        raise ValueError(
            f"cross_entropy: input of shape {input.shape} does not fit class weights of shape "
            f"{getattr(weight, 'shape', None)}"
        )
    if weight is not None and weight.dtype != input.dtype:
        raise TypeError(f"cross_entropy: weight has dtype {weight.dtype}, the input {input.dtype}; they must be equal")
    axis = min(1, input.ndim - 1)
    if target.dtype.kind == "f":
        if ignore_index >= 0:
            raise ValueError(
                f"cross_entropy: ignore_index {ignore_index} is of class numbers; the target is of probabilities "
                f"(shape {target.shape}, {target.dtype})"
            )
        return _soft_cross_entropy(input, target, axis, weight, reduction, label_smoothing)
    shape = input.shape
    places = shape[:axis] + shape[axis + 1 :]
    if target.shape != places:
        raise ValueError(
            f"cross_entropy: input of shape {input.shape} wants a target of shape {places}, got {target.shape}"
        )
    last = input if axis == input.ndim - 1 else xp_of(input).moveaxis(input, axis, -1)
    classes = last.shape[-1]
    logits, labels = (last, target) if last.ndim == 2 else (last.reshape(-1, classes), target.reshape(-1))
    labels, kept = _labels(labels, classes, ignore_index)
    rows_weight = kept if weight is None else weight[labels] if kept is None else weight[labels] * kept
    total = len(labels)
    if rows_weight is not None:
        rows_weight = rows_weight.astype(np.float32 if input.dtype in HALVES else input.dtype, copy=False)
        total = rows_weight.sum()
    if weight is not None and label_smoothing:
        # Each class of the smooth part has its own weight: take the general path.
        return _smooth_weighted(last, labels, kept, weight, axis, total, reduction, label_smoothing)
    kernels = backend_of(logits)
    loss, e, sums = kernels.cross_entropy(logits, labels, rows_weight, label_smoothing)
    value, spread = _reduce(loss if len(places) == 1 else loss.reshape(places), total, reduction)

    def pullback(g: Array) -> Array:
        g = spread(g)
        gx = kernels.cross_entropy_grad(g.reshape(-1) if g.ndim else g, e, sums, labels, rows_weight, label_smoothing)
        return gx if last.ndim == 2 else _back(gx.reshape(last.shape), axis)

    return value, pullback


@_cross_entropy.formula
def _formula(
    input: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    from dtrain.ops.activation import log_softmax
    from dtrain.ops.pointwise_loss import nll_loss, reduced

    axis = min(1, input.ndim - 1)
    log_p = log_softmax(input, axis)
    shape = [1] * input.ndim
    shape[axis] = classes = input.shape[axis]
    scaled = log_p if weight is None else log_p * weight.reshape(shape)
    if target.is_floating_point():
        q = target * (1 - label_smoothing) + label_smoothing / classes if label_smoothing else target
        return reduced(-(q * scaled).sum(axis), reduction, math.prod(input.shape) // max(classes, 1))
    loss = nll_loss(log_p, target, weight, ignore_index, reduction)
    if not label_smoothing:
        return loss
    kept = (target != ignore_index).to(input.dtype)
    labels = target.array * kept.array.astype(np.int64)
    total = kept.sum() if weight is None else (kept * Tensor(weight.array[labels])).sum()
    smooth = reduced(-scaled.sum(axis) * kept, reduction, total)
    return (1 - label_smoothing) * loss + label_smoothing / classes * smooth


@_of_halves.formula
def _(input: Any, *options: Any) -> Any:
    return _formula(input.to(np.float32), *options)


def _back(g: Array, axis: int) -> Array:
    return g if axis == g.ndim - 1 else xp_of(g).moveaxis(g, -1, axis)


def _labels(labels: Array, classes: int, ignore_index: int) -> tuple[Array, Array | None]:
    """Checked class numbers (0 where ignored), and which samples count (None: all)."""
    if labels.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy needs class numbers of an integer dtype, got {labels.dtype}")
    if not labels.size:
        return labels, None
    labels = labels if labels.dtype == np.int64 else labels.astype(np.int64)
    if on_gpu(labels) and (capture.present() is not None or capture.rehearsing()):
        # In a graph nobody can look at them: a wrong one gives NaN.
        xp, kept, there = xp_of(labels), labels != ignore_index, (labels >= 0) & (labels < classes)
        return xp.where(there & kept, labels, 0), xp.where(there | ~kept, kept.astype(np.float32), np.float32(math.nan))
    # Seen as unsigned, negative numbers are huge: one reduction finds what is out of range.
    seen = labels.view(np.uint64)
    if (
        int(np.maximum.reduce(seen) if seen.__class__ is np.ndarray else seen.max()) < classes
        and not 0 <= ignore_index < classes
    ):
        return labels, None
    kept = labels != ignore_index
    wrong = kept & ((labels < 0) | (labels >= classes))
    if wrong.any():
        first = int(wrong.argmax())
        raise IndexError(
            f"cross_entropy: target {int(labels[first])} of sample {first} is out of range for {classes} classes"
        )
    return xp_of(labels).where(kept, labels, 0), kept


def _against(q: Array, input: Array, axis: int, total: Any, reduction: str) -> tuple[Any, Any, Any, Array]:  # noqa: A002
    """-sum of q log softmax(input) along axis, for any q; with what sends its gradient to input.

    Returns the value, the pullback, how the reduction spreads a gradient, and log softmax(input).
    """
    xp = xp_of(input)
    log_p = backend_of(input).log_softmax(input, axis)
    value, spread = _reduce(-(q * log_p).sum(axis), total, reduction)

    def each(g: Array) -> Array:
        g = spread(g)
        return xp.expand_dims(g, axis) if g.ndim else g

    return value, lambda g: each(g) * (xp.exp(log_p) * q.sum(axis, keepdims=True) - q), each, log_p


def _smooth_weighted(
    last: Array,
    labels: Array,
    kept: Array | None,
    weight: Array,
    axis: int,
    total: Any,
    reduction: str,
    smoothing: float,
) -> Any:
    """Label smoothing with class weights: every class c of the smooth part counts weight[c]."""
    q = xp_of(last).full((len(labels), last.shape[-1]), smoothing / last.shape[-1], last.dtype)
    q[xp_of(last).arange(len(labels)), labels] += 1 - smoothing
    q *= weight
    if kept is not None:
        q *= kept[:, None]
    value, pullback, _, _ = _against(q.reshape(last.shape), last, -1, total, reduction)
    return value, lambda g: _back(pullback(g), axis)


def _soft_cross_entropy(
    input: Array,  # noqa: A002
    target: Array,
    axis: int,
    weight: Array | None,
    reduction: str,
    smoothing: float,
) -> Any:
    """Targets that are probabilities: the mean divides by the number of samples."""
    _same_shape("cross_entropy", input, target)
    shape = [1] * input.ndim
    shape[axis] = classes = input.shape[axis]
    scale = 1 if weight is None else weight.reshape(shape)
    q = (target * (1 - smoothing) + smoothing / classes) * scale if smoothing else target * scale
    total = math.prod(input.shape) // max(classes, 1)
    value, pullback, each, log_p = _against(q, input, axis, total, reduction)

    def gradients(g: Array, needs: Sequence[bool]) -> list[Array | None]:
        return [
            pullback(g) if needs[0] else None,
            each(g) * -log_p * scale * (1 - smoothing) if needs[1] else None,
            *[None] * (len(needs) - 2),
        ]

    return value, Joint(gradients)
