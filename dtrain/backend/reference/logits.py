"""Softmax and its loss."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from dtrain.backend.halves import in_float32, widened

__all__ = ["cross_entropy", "cross_entropy_grad", "log_softmax", "log_softmax_grad", "softmax", "softmax_grad"]


@in_float32
def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """exp(x) / sum(exp(x)) along axis; the maximum is taken off first, so that nothing overflows."""
    if not x.size:
        return x.copy()
    y = np.exp(x - x.max(axis, keepdims=True))
    y /= y.sum(axis, keepdims=True)
    return y


@in_float32
def softmax_grad(g: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    """y (g - sum(g y)) along axis: the gradient of softmax, whose result was y."""
    return y * (g - _sum(g * y, axis))


@in_float32
def log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """x - log(sum(exp(x))) along axis."""
    if not x.size:
        return x.copy()
    y = x - x.max(axis, keepdims=True)
    y -= np.log(np.exp(y).sum(axis, keepdims=True))
    return y


@in_float32
def log_softmax_grad(g: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    """g - exp(y) sum(g) along axis: the gradient of log_softmax, whose result was y."""
    return g - np.exp(y) * _sum(g, axis)


def _sum(x: np.ndarray, axis: int) -> np.ndarray:
    return x.sum(axis, keepdims=True) if x.ndim else x


@lru_cache(64)
def _numbers(n: int) -> np.ndarray:
    """0, 1, 2 and so on, the same array every time."""
    made = np.arange(n)
    made.flags.writeable = False
    return made


_SHORT = 48  # rows of so few elements NumPy reduces faster as columns: 4096 of 10 in a tenth of the time


def cross_entropy(
    logits: np.ndarray, target: np.ndarray, weight: np.ndarray | None, smoothing: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-weight[r] log p[r, target[r]] for each row, with label smoothing. logits: (R, C), target, weight: (R,)

    With smoothing s, the loss of a row is weight * ((1 - s) * -log p[target] + s / C * sum over c of -log p[c]).
    Two-byte logits have losses in float32, in which weights and the losses' gradients are too.
    Returns the losses (R,), and for the gradient e^(logits - their maximum) (R, C) and its sums (R,).
    """
    logits = widened(logits)
    if logits.shape[1] < _SHORT:
        columns = logits.T.copy()
        columns -= np.maximum.reduce(columns, 0)
        powers = np.exp(columns)
        shifted, e, total = columns.T, powers.T, np.add.reduce(powers, 0)
    else:
        shifted = logits - np.maximum.reduce(logits, 1, keepdims=True)
        e = np.exp(shifted)
        total = np.add.reduce(e, 1)
    loss = -shifted[_numbers(len(target)), target]
    if smoothing:
        loss *= 1 - smoothing
        loss -= np.add.reduce(shifted, 1) * logits.dtype.type(smoothing / logits.shape[1])
    loss += np.log(total)
    if weight is not None:
        loss *= weight
    return loss, e, total


def cross_entropy_grad(
    g: np.ndarray,
    e: np.ndarray,
    total: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None,
    smoothing: float,
) -> np.ndarray:
    """Gradient of cross_entropy with respect to logits. g: (R,), or one number for all rows"""
    each = g if weight is None else g * weight
    gx = e * (each / total)[:, None]
    if smoothing:
        gx -= np.reshape(each, (-1, 1)) * gx.dtype.type(smoothing / e.shape[1])
        each = each * gx.dtype.type(1 - smoothing)
    gx[_numbers(len(target)), target] -= each
    return gx
