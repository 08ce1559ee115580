"""Convolutions in which each channel sees itself alone: as many groups as channels in and out.

Arrays are channels last, x: (N, *size, C), y: (N, *out, C), and the weight is (*kernel, C). A product of matrices would
have one column; here an image is multiplied by the weight of a place and added, for one place of the window after
the other, in runs over all channels, and over the last dimension too where that lies in one piece.
"""

from __future__ import annotations

import numpy as np

from dtrain.backend.reference.layout import Sizes, border, contiguous, inside, needed, strided, windows

__all__ = ["convolution", "data_grad", "fits", "matrix", "weight_grad"]


def fits(weight: np.ndarray, groups: int) -> bool:
    """Whether a weight (O, I / groups, *kernel) is such a convolution's."""
    return groups > 1 and weight.shape[:2] == (groups, 1)


def matrix(weight: np.ndarray) -> np.ndarray:
    """(C, 1, *kernel) -> (*kernel, C), contiguous"""
    return contiguous(weight[:, 0].transpose(*range(1, weight.ndim - 1), 0))


def _view(x: np.ndarray, out: Sizes, kernel: Sizes, stride: Sizes, dilation: Sizes, joined: bool) -> np.ndarray:
    """One padded image (*size, C) as (*out, *kernel, C); `joined`: the last of out is one with C."""
    steps, c = x.strides[:-1], x.strides[-1]
    moves = [s * t for s, t in zip(steps, stride, strict=True)]
    places = [s * t for s, t in zip(steps, dilation, strict=True)]
    if joined:
        return strided(x, (*out[:-1], *kernel, out[-1] * x.shape[-1]), (*moves[:-1], *places, c))
    return strided(x, (*out, *kernel, x.shape[-1]), (*moves, *places, c))


def convolution(
    x: np.ndarray, weight: np.ndarray, y: np.ndarray, stride: Sizes, padding: Sizes, dilation: Sizes
) -> None:
    """Write the cross-correlation of x and weight to y."""
    out, kernel, joined = y.shape[1:-1], weight.shape[:-1], stride[-1] == 1
    if joined:
        weight = np.tile(weight, out[-1])
        y = y.reshape(*y.shape[:-2], out[-1] * y.shape[-1])
    a, k = y.ndim - 2, len(kernel)  # dimensions of the image before the run, and of the window
    run, where = a + k, list(range(a))
    for i in range(len(x)):
        padded = border(x[i : i + 1], out, kernel, stride, padding, dilation, 0.0)[0]
        view = _view(padded, out, kernel, stride, dilation, joined)
        y[i] = np.einsum(view, [*range(run + 1)], weight, [*range(a, run + 1)], [*where, run])


def data_grad(
    g: np.ndarray, weight: np.ndarray, gx: np.ndarray, stride: Sizes, padding: Sizes, dilation: Sizes
) -> None:
    """Write the gradient in x of `convolution`, where g is that of y, to gx."""
    size, out, kernel = gx.shape[1:-1], g.shape[1:-1], weight.shape[:-1]
    before = tuple(d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True))
    if set(stride) == {1} and min(before) >= 0:
        convolution(g, weight[(slice(None, None, -1),) * len(kernel)], gx, stride, before, dilation)
        return
    whole = tuple(max(m, s + p) for m, s, p in zip(needed(out, kernel, stride, dilation), size, padding, strict=True))
    for i in range(len(g)):
        padded = np.zeros((1, *whole, g.shape[-1]), g.dtype, like=g)
        parts = windows(padded, out, kernel, stride, dilation)
        for w, part in zip(weight.reshape(-1, weight.shape[-1]), parts, strict=True):
            part += g[i] * w
        gx[i] = padded[inside(size, padding)][0]


def weight_grad(
    g: np.ndarray, x: np.ndarray, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> np.ndarray:
    """The gradient in weight of `convolution`, where g is that of y. -> (C, 1, *kernel)"""
    out, c, joined = g.shape[1:-1], g.shape[-1], stride[-1] == 1
    if joined:
        g = g.reshape(*g.shape[:-2], out[-1] * c)
    a, run = g.ndim - 2, g.ndim - 2 + len(kernel)
    # One sum for each image and place of a run (or of the first dimension): short sums keep their digits.
    sums = np.zeros((*kernel, g.shape[-1]), g.dtype, like=g)
    for i in range(len(x)):
        padded = border(x[i : i + 1], out, kernel, stride, padding, dilation, 0.0)[0]
        view = _view(padded, out, kernel, stride, dilation, joined)
        sums += np.einsum(view, [*range(run + 1)], g[i], [*range(a), run], [*range(a, run + 1)])
    if joined:
        sums = sums.reshape(*kernel, out[-1], c).sum(-2)
    return sums.transpose(len(kernel), *range(len(kernel)))[:, None]
