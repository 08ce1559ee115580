"""Normalisation. Images of two-byte floats are normalised in float32, in which their statistics and weights are too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dtrain.backend.halves import halved, widened
from dtrain.backend.reference.layout import channel_rows, sum_rows

__all__ = ["batch_norm", "batch_norm_grad", "batch_norm_grad_sums", "batch_norm_stats", "layer_norm", "layer_norm_grad"]


def batch_norm(
    x: np.ndarray,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    mean: np.ndarray | None,
    var: np.ndarray | None,
    eps: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """(x - mean) / sqrt(var + eps) * weight + bias per channel. x: (N, C, ...), the others (C,)

    mean and var None: those of x (biased). Returns y, mean, var, and what the gradient needs: the normalised
    rows (R, C) and 1 / sqrt(var + eps).
    """
    rows, back = channel_rows(widened(x))
    if mean is None or var is None:
        share = rows.dtype.type(1 / max(1, len(rows)))
        mean = sum_rows(rows) * share
        normal = rows - mean
        var = sum_rows(normal * normal) * share
    else:
        normal = rows - mean
    scale = (1 / np.sqrt(var + eps)).astype(rows.dtype)
    normal *= scale
    return back(halved(_affine(normal, weight, bias), x.dtype)), mean, var, (normal, scale)


def _affine(normal: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None) -> np.ndarray:
    y = normal if weight is None else normal * widened(weight)
    if bias is not None:
        y = y + widened(bias) if y is normal else np.add(y, widened(bias), out=y)
    return y


def batch_norm_stats(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per channel, the mean of x and the sum of (x - mean)^2, both 0 where there is no sample. (N, C, ...) -> (C,)"""
    rows, _ = channel_rows(widened(x))
    mean = sum_rows(rows) * rows.dtype.type(1 / max(1, len(rows)))
    centred = rows - mean
    return mean, sum_rows(centred * centred)


def batch_norm_grad_sums(g: np.ndarray, kept: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Per channel, the sums of g and of g times the normalised x: the gradients of bias and weight. (C,)"""
    rows, _ = channel_rows(widened(g))
    return sum_rows(rows), sum_rows(rows * kept[0])


def batch_norm_grad(
    g: np.ndarray,
    kept: tuple[np.ndarray, np.ndarray],
    weight: np.ndarray | None,
    batch_statistics: bool,
    needs: Sequence[bool],
    sums: tuple[np.ndarray, np.ndarray, float] | None = None,
) -> list[np.ndarray | None]:
    """Gradients of batch_norm with respect to x, weight and bias, those that are needed.

    sums: where x was a part of the batch whose statistics were taken, batch_norm_grad_sums of the whole batch,
    and its number of values per channel.
    """
    (normal, scale), (rows, back) = kept, channel_rows(widened(g))
    g_bias, g_weight = sum_rows(rows), sum_rows(rows * normal)
    gx = None
    if needs[0]:
        factor = scale if weight is None else scale * widened(weight)
        if batch_statistics:
            of_g, of_g_normal, count = (g_bias, g_weight, len(rows)) if sums is None else sums
            share = rows.dtype.type(1 / max(1, count))
            gx = normal * (of_g_normal * -share)
            gx += rows
            gx -= of_g * share
            gx *= factor
        else:
            gx = rows * factor
        gx = back(halved(gx, g.dtype))
    return [gx, g_weight if needs[1] else None, g_bias if needs[2] else None]


def layer_norm(
    x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, eps: float, centred: bool = True
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, bool]]:
    """(x - mean) / sqrt(var + eps) * weight + bias over each row. x: (R, D), weight, bias: (D,)

    centred=False (RMS norm): the mean counts as 0. Returns y, and what the gradient needs: the normalised rows,
    1 / sqrt(var + eps) (R, 1), and centred.
    """
    dtype, x = x.dtype, widened(x)
    normal = x - x.mean(1, keepdims=True) if centred else x.copy()
    var = np.mean(normal * normal, 1, keepdims=True)
    scale = (1 / np.sqrt(var + eps)).astype(x.dtype)
    normal *= scale
    return halved(_affine(normal, weight, bias), dtype), (normal, scale, centred)


def layer_norm_grad(
    g: np.ndarray, kept: tuple[np.ndarray, np.ndarray, bool], weight: np.ndarray | None, needs: Sequence[bool]
) -> list[np.ndarray | None]:
    """Gradients of layer_norm with respect to x, weight and bias, those that are needed. g: (R, D)"""
    (normal, scale, centred), dtype, g = kept, g.dtype, widened(g)
    gx = None
    if needs[0]:
        gx = g * widened(weight) if weight is not None else g.copy()
        along = np.mean(gx * normal, 1, keepdims=True)
        if centred:
            gx -= gx.mean(1, keepdims=True)
        gx -= normal * along
        gx *= scale
        gx = halved(gx, dtype)
    return [gx, sum_rows(g * normal) if needs[1] else None, sum_rows(g) if needs[2] else None]
