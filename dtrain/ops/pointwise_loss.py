"""Losses that are sums over elements, made of ops of Tensors: they can be differentiated again. See also `loss.py`."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, as_one_call, constant, op
from dtrain.backend import xp_of
from dtrain.ops import arithmetic
from dtrain.ops.activation import logsigmoid
from dtrain.ops.arithmetic import where
from dtrain.ops.binary import xlogy
from dtrain.ops.dtypes import in_float32, quiet
from dtrain.ops.indexing import gather
from dtrain.ops.rearranging import broadcast_tensors
from dtrain.ops.shape import squeeze, unsqueeze

__all__ = [
    "binary_cross_entropy", "gaussian_nll_loss", "hinge_embedding_loss", "huber_loss", "kl_div", "l1_loss", "nll_loss",
    "poisson_nll_loss", "reduced", "smooth_l1_loss", "soft_margin_loss",
]  # fmt: skip


def reduced(loss: Any, reduction: str, total: Any = None) -> Any:
    """The loss by `reduction`: "none", "sum", or "mean", the sum divided by total (the number of elements).

    Raises ValueError for other names.
    """
    if reduction == "none":
        return loss
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if reduction == "sum":
        return loss.sum()
    return loss.mean() if total is None else loss.sum() / total


def _common(name: str, input: Any, target: Any) -> tuple[Any, Any]:
    """input and target in their common shape. Warns where they differ; ValueError where they have none."""
    if input.shape == target.shape:
        return input, target
    try:
        pair = broadcast_tensors(input, target)
    except ValueError:
        raise ValueError(
            f"{name}: input of shape {input.shape} does not fit a target of shape {target.shape}"
        ) from None
    warnings.warn(
        f"{name}: target of shape {target.shape} is broadcast with input of shape {input.shape}; make them equal",
        stacklevel=3,
    )
    return pair[0], pair[1]


def _weighted(loss: Any, weight: Any, reduction: str) -> Any:
    if weight is None:
        return reduced(loss, reduction)
    if weight.shape != loss.shape:
        raise ValueError(f"the weight has shape {weight.shape}, the input {loss.shape}; they must be equal")
    return reduced(loss * weight, reduction, weight.sum())


@in_float32
def l1_loss(input: Any, target: Any, reduction: str = "mean", weight: Any = None) -> Any:
    """|input - target|, its mean or sum; weight, of input's shape, multiplies it and gives what "mean" divides by.

    Raises ValueError for other shapes.
    """
    input, target = _common("l1_loss", input, target)
    return _weighted(arithmetic.abs(input - target), weight, reduction)


@in_float32
def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0, weight: Any = None) -> Any:
    """d^2 / 2 where |d| < delta, else delta (|d| - delta / 2), d = input - target (Huber, 1964).

    Raises ValueError unless delta > 0, TypeError unless it is a number.
    """
    if not isinstance(delta, (int, float)):
        raise TypeError(f"huber_loss: delta must be a number, got {delta!r} of {type(delta).__name__}")
    if delta <= 0:
        raise ValueError(f"huber_loss: delta must be positive, got {delta}")
    input, target = _common("huber_loss", input, target)
    d = input - target
    size = arithmetic.abs(d)
    return _weighted(where(size < delta, 0.5 * d * d, delta * (size - 0.5 * delta)), weight, reduction)


@in_float32
def smooth_l1_loss(input: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Any:
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2, d = input - target (Girshick, arXiv:1504.08083).

    Raises ValueError for other shapes and beta < 0.
    """
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta must not be negative, got {beta}")
    if beta == 0:
        return l1_loss(input, target, reduction)
    input, target = _common("smooth_l1_loss", input, target)
    d = input - target
    size = arithmetic.abs(d)
    return reduced(where(size < beta, 0.5 / beta * d * d, size - 0.5 * beta), reduction)


@op
@quiet
def _cross_entropy_of_two(x: Any, t: Any) -> Any:
    """-(t log x + (1 - t) log(1 - x)), elementwise."""
    xp = xp_of(x, t)
    log_x, log_y = xp.maximum(xp.log(x), -100), xp.maximum(xp.log1p(-x), -100)
    return -(t * log_x + (1 - t) * log_y), (
        lambda g: g * ((x - t) / xp.maximum((1 - x) * x, 1e-12)),
        lambda g: g * (log_y - log_x),
    )


@in_float32
def binary_cross_entropy(input: Any, target: Any, weight: Any = None, reduction: str = "mean") -> Any:
    """-(t log x + (1 - t) log(1 - x)) weight for probabilities x; logarithms are at least -100.

    input, target: one shape. Raises ValueError where shapes differ, RuntimeError for an x outside [0, 1].
    """
    if input.shape != target.shape:
        raise ValueError(f"binary_cross_entropy: input {input.shape} and target {target.shape} must have one shape")
    _check_probabilities(input)
    loss = _cross_entropy_of_two(input, target)
    return reduced(loss if weight is None else loss * weight, reduction)


@as_one_call
def _check_probabilities(x: Tensor) -> None:
    if ((x.array < 0) | (x.array > 1)).any():
        raise RuntimeError("binary_cross_entropy: all elements of input must be between 0 and 1")


@in_float32
def kl_div(input: Any, target: Any, reduction: str = "mean", log_target: bool = False) -> Any:
    """t (log t - x), x the logarithms of probabilities, t probabilities (their logarithms with log_target).

    reduction "batchmean" divides the sum by len(input), which makes it the divergence of Kullback and Leibler. Raises
    ValueError for shapes that do not broadcast.
    """
    loss = arithmetic.exp(target) * (target - input) if log_target else xlogy(target, target) - target * input
    if reduction == "batchmean":
        return loss.sum() / (input.shape[0] if input.ndim else 1)
    return reduced(loss, reduction)


@in_float32
def nll_loss(input: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> Any:
    """-weight[t] input[n, t], t the class of sample n.  input: (N, C, ...) or (C,), log-probabilities; target: (N, ...)

    "mean" divides by the sum of the weights; samples of class ignore_index count nothing. Raises ValueError for shapes
    that do not fit, IndexError for a class outside [0, C), TypeError for weights of another dtype than input's.
    """
    if not input.ndim:
        raise ValueError(f"nll_loss needs an input of shape (N, C, ...) or (C,), got {input.shape}")
    axis = min(1, input.ndim - 1)
    places, classes = input.shape[:axis] + input.shape[axis + 1 :], input.shape[axis]
    if target.shape != places or weight is not None and weight.shape != (classes,):
        raise ValueError(
            f"nll_loss: input of shape {input.shape} wants a target of shape {places}, got {target.shape}, and weights "
            f"of shape ({classes},), got {getattr(weight, 'shape', None)}"
        )
    if target.dtype.kind not in "iu":
        raise TypeError(f"nll_loss needs class numbers of an integer dtype, got {target.dtype}")
    if weight is not None and weight.dtype != input.dtype:
        raise TypeError(f"nll_loss: weight has dtype {weight.dtype}, the input {input.dtype}; they must be equal")
    labels, kept, factor = _classes(target, classes, ignore_index, weight, input.dtype)
    picked = squeeze(gather(input, axis, unsqueeze(labels, axis)), axis)
    loss = where(kept, -picked * factor, constant(np.zeros((), input.dtype)))
    return reduced(loss, reduction, factor.sum() if reduction == "mean" else None)


@as_one_call
def _classes(target: Tensor, classes: int, ignore_index: int, weight: Tensor | None, dtype: Any) -> list[Tensor]:
    """The classes, 0 where they are ignored, whether they are not, and what they count."""
    labels = target.array.astype(np.int64)
    kept = labels != ignore_index
    labels = np.where(kept, labels, 0)
    if (kept & ((labels < 0) | (labels >= classes))).any():
        raise IndexError(
            f"nll_loss: a target of {target.array.min()} to {target.array.max()} is outside [0, {classes})"
        )
    factor = kept.astype(dtype) if weight is None else weight.array[labels] * kept
    return [Tensor(labels), Tensor(kept), Tensor(factor)]


@in_float32
def poisson_nll_loss(
    input: Any,
    target: Any,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Any:
    """exp(x) - t x with log_input, else x - t log(x + eps); full adds t log t - t + log(2 pi t) / 2 for t > 1.

    Raises ValueError for shapes that do not broadcast.
    """
    loss = arithmetic.exp(input) - target * input if log_input else input - target * arithmetic.log(input + eps)
    if full:
        safe = where(target > 1, target, 1.0)
        stirling = target * arithmetic.log(safe) - target + 0.5 * arithmetic.log(2 * math.pi * safe)
        loss = loss + where(target > 1, stirling, 0.0)
    return reduced(loss, reduction)


def gaussian_nll_loss(
    input: Any, target: Any, var: Any, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Any:
    """(log v + (input - target)^2 / v) / 2, v = max(var, eps); full adds log(2 pi) / 2 (Nix and Weigend, 1994).

    var: a number, input's shape, that without the last dimension, or one that broadcasts to it. Raises ValueError for
    other shapes and negative variances. v takes var's gradient also where it is smaller than eps.
    """
    if isinstance(var, (int, float)):
        var = constant(np.full(input.shape, var, input.dtype))
    if var.shape != input.shape:
        if var.shape == input.shape[:-1]:
            var = unsqueeze(var, -1)
        elif var.ndim != input.ndim or any(v not in (1, n) for v, n in zip(var.shape, input.shape, strict=True)):
            raise ValueError(
                f"gaussian_nll_loss: var of shape {var.shape} does not fit an input of shape {input.shape}"
            )
    v = var + _up_to(eps, var)
    loss = 0.5 * (arithmetic.log(v) + arithmetic.square(input - target) / v)
    return reduced(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)


@as_one_call
def _up_to(eps: float, var: Tensor) -> Tensor:
    """What variances lack to be eps."""
    if (var.array < 0).any():
        raise ValueError("gaussian_nll_loss: var has negative elements")
    return Tensor(np.maximum(eps - var.array, 0).astype(var.dtype))


@in_float32
def soft_margin_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """log(1 + exp(-t x)), t of 1 and -1. Raises ValueError where the shapes differ."""
    if input.shape != target.shape:
        raise ValueError(f"soft_margin_loss: input {input.shape} and target {target.shape} must have one shape")
    return reduced(-logsigmoid(target * input), reduction)


@in_float32
def hinge_embedding_loss(input: Any, target: Any, margin: float = 1.0, reduction: str = "mean") -> Any:
    """x where t = 1, max(0, margin - x) where t = -1. Raises ValueError for shapes that do not broadcast."""
    apart = where(target != 1, arithmetic.clamp(margin - input, 0), 0.0)
    return reduced(apart + where(target != -1, input, 0.0), reduction)
