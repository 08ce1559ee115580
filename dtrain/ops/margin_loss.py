"""Losses that keep scores or distances apart by a margin: made of ops of Tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, as_one_call, constant
from dtrain.ops import arithmetic
from dtrain.ops.activation import logsigmoid
from dtrain.ops.arithmetic import clamp, minimum, where
from dtrain.ops.distances import pairwise_distance
from dtrain.ops.dtypes import in_float32
from dtrain.ops.indexing import gather
from dtrain.ops.pointwise_loss import reduced
from dtrain.ops.reduction import mean, sum
from dtrain.ops.shape import reshape, unsqueeze

__all__ = [
    "cosine_embedding_loss", "margin_ranking_loss", "multi_margin_loss", "multilabel_margin_loss",
    "multilabel_soft_margin_loss", "triplet_margin_loss", "triplet_margin_with_distance_loss",
]  # fmt: skip


@in_float32
def margin_ranking_loss(input1: Any, input2: Any, target: Any, margin: float = 0.0, reduction: str = "mean") -> Any:
    """max(0, margin - t (x1 - x2)), t of 1 (x1 should be the larger) and -1. Raises ValueError for other dimensions."""
    if not input1.ndim == input2.ndim == target.ndim:
        raise ValueError(
            f"margin_ranking_loss: inputs {input1.shape}, {input2.shape} and target {target.shape} differ in dimensions"
        )
    return reduced(clamp(margin - target * (input1 - input2), 0), reduction)


@in_float32
def cosine_embedding_loss(input1: Any, input2: Any, target: Any, margin: float = 0.0, reduction: str = "mean") -> Any:
    """1 - cos(x1, x2) where t = 1, max(0, cos(x1, x2) - margin) where t = -1.  inputs (N, D) or (D,), target (N,) or ()

    Hadsell, Chopra and LeCun, CVPR 2006. Raises ValueError for shapes that do not fit.
    """
    if target.ndim > 1 or input1.ndim != target.ndim + 1 or input2.ndim != target.ndim + 1:
        raise ValueError(
            f"cosine_embedding_loss: inputs {input1.shape}, {input2.shape} and target {target.shape} must be (N, D), "
            "(N, D) and (N,), or (D,), (D,) and ()"
        )
    eps = 1e-12
    product = sum(input1 * input2, -1)
    squares = (sum(input1 * input1, -1) + eps) * (sum(input2 * input2, -1) + eps)
    cosine = product / arithmetic.sqrt(squares)
    zero = constant(np.zeros((), cosine.dtype))
    return reduced(
        where(target == 1, 1 - cosine, zero) + where(target == -1, clamp(cosine - margin, 0), zero), reduction
    )


@in_float32
def multi_margin_loss(
    input: Any,
    target: Any,
    p: int = 1,
    margin: float = 1.0,
    weight: Any = None,
    reduction: str = "mean",
) -> Any:
    """sum over i != t of max(0, margin - x[t] + x[i])^p weight[t] / C.  input (N, C) or (C,), target (N,) or ()

    Raises ValueError unless p is 1 or 2 and the shapes fit.
    """
    if p not in (1, 2):
        raise ValueError(f"multi_margin_loss: p must be 1 or 2, got {p}")
    input = input if input.ndim else reshape(input, 1)
    classes = input.shape[-1]
    if input.ndim not in (1, 2) or not classes or target.array.size != (input.shape[0] if input.ndim == 2 else 1):
        raise ValueError(f"multi_margin_loss: input {input.shape} and target {target.shape} must be (N, C) and (N,)")
    if weight is not None and weight.shape != (classes,):
        raise ValueError(f"multi_margin_loss: the weight has shape {weight.shape}, it must be ({classes},)")
    own_class, others, weights = _of_targets(target, input.shape, weight)
    own = gather(input, -1, own_class)
    gap = clamp(margin - own + input, 0)
    gap = gap if p == 1 else gap * gap
    if weights is not None:
        gap = gap * weights
    return reduced(sum(where(others, gap, constant(np.zeros((), input.dtype))), -1) / classes, reduction)


@as_one_call
def _of_targets(target: Tensor, shape: tuple[int, ...], weight: Tensor | None) -> list[Any]:
    """The targets as (..., 1), which classes are others, and the targets' weights."""
    labels = target.array.reshape(*shape[:-1], 1).astype(np.int64)
    if labels.size and (labels.min() < 0 or labels.max() >= shape[-1]):
        raise IndexError(f"multi_margin_loss: targets {labels.min()} to {labels.max()} are outside [0, {shape[-1]})")
    others = np.arange(shape[-1]) != labels
    return [Tensor(labels), Tensor(others), None if weight is None else Tensor(weight.array[labels])]


@in_float32
def multilabel_margin_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """sum over classes t of the target, and i not of it, of max(0, 1 - (x[t] - x[i])) / C.  Both (N, C) or (C,)

    The target lists classes; what stands from the first -1 on does not count. Raises ValueError for other shapes.
    """
    if not input.ndim and not target.ndim:
        input, target = reshape(input, 1), reshape(target, 1)
    if input.ndim not in (1, 2) or input.shape != target.shape or not input.shape[-1]:
        raise ValueError(
            f"multilabel_margin_loss: input {input.shape} and target {target.shape} must be (N, C) or (C,)"
        )
    listed, counts = _of_lists(target)
    gap = clamp(1 - (unsqueeze(gather(input, -1, listed), -1) - unsqueeze(input, -2)), 0)
    loss = sum(where(counts, gap, constant(np.zeros((), input.dtype))), (-1, -2)) / input.shape[-1]
    return reduced(loss, reduction)


@as_one_call
def _of_lists(target: Tensor) -> list[Tensor]:
    """The classes that are listed, and which pairs (t, i) count: t is listed, i is not."""
    labels, classes = target.array.astype(np.int64), target.shape[-1]
    listed = np.cumsum(labels < 0, -1) == 0
    safe = np.where(listed, labels, 0)
    if listed.any() and safe.max() >= classes:
        raise IndexError(f"multilabel_margin_loss: target {safe.max()} is outside [-1, {classes})")
    own = np.zeros(target.shape, bool)
    np.put_along_axis(own, np.where(listed, labels, safe[..., :1] if safe.size else safe), True, -1)
    own &= listed[..., :1]
    return [Tensor(safe), Tensor(listed[..., :, None] & ~own[..., None, :])]


def multilabel_soft_margin_loss(input: Any, target: Any, weight: Any = None, reduction: str = "mean") -> Any:
    """-mean over classes of (t log s(x) + (1 - t) log s(-x)) weight, s the logistic function.

    Raises ValueError for shapes that do not broadcast.
    """
    loss = -(target * logsigmoid(input) + (1 - target) * logsigmoid(-input))
    return reduced(mean(loss if weight is None else loss * weight, -1), reduction)


@in_float32
def triplet_margin_loss(
    anchor: Any,
    positive: Any,
    negative: Any,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Any:
    """max(0, d(a, p) - d(a, n) + margin), d the distance of order p (Balntas et al., BMVC 2016).

    swap: of d(a, n) and d(p, n) the smaller one. Raises ValueError unless margin > 0.
    """
    shapes = [t.shape for t in (anchor, positive, negative)]
    if len({len(s) for s in shapes}) > 1:
        raise ValueError(f"triplet_margin_loss: anchor, positive and negative need as many dimensions, got {shapes}")
    return triplet_margin_with_distance_loss(
        anchor, positive, negative, distance_function=lambda x, y: pairwise_distance(x, y, p, eps),
        margin=margin, swap=swap, reduction=reduction,
    )  # fmt: skip


def triplet_margin_with_distance_loss(
    anchor: Any,
    positive: Any,
    negative: Any,
    *,
    distance_function: Callable[[Any, Any], Any] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Any:
    """`triplet_margin_loss` with another distance; `pairwise_distance` unless given."""
    if margin <= 0:
        raise ValueError(f"triplet_margin_loss: margin must be greater than 0, got {margin}")
    distance = distance_function or pairwise_distance
    far = distance(anchor, negative)
    if swap:
        far = minimum(far, distance(positive, negative))
    return reduced(clamp(distance(anchor, positive) - far + margin, 0), reduction)
