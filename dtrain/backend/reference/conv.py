"""Convolution of images of any number of dimensions, as products of patch matrices.

With y = convolution(x, w), the sum of g * y is linear in each of g, x and w. Its gradients in x and w are the other
two kernels here, and the gradients of the three are again the three. A transposed convolution is
`convolution_data_grad`. `size`, `out` and `kernel` are the sizes of x, y and w; padding is what lies before x in each
dimension, and as much lies behind it as the windows need.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod

import numpy as np

from dtrain.backend.halves import in_float32
from dtrain.backend.reference import depthwise
from dtrain.backend.reference.layout import (
    Sizes,
    border,
    channels_first,
    channels_last,
    inside,
    needed,
    strided,
    sum_rows,
    windows,
)  # fmt: skip

__all__ = ["channel_sums", "convolution", "convolution_data_grad", "convolution_weight_grad"]


# Elements of the patch matrix of a block of images: 1 MiB of float32, so that it stays in the L2 cache; but
# rows enough for the weights, which are read once for each block, to be used often.
_PATCH_ELEMENTS = 1 << 18
_PATCH_ROWS = 1 << 9
_PATCH_ELEMENTS_GPU = 1 << 27  # there every block is some kernels more to start


def _patches(x: np.ndarray, out: Sizes, kernel: Sizes, stride: Sizes, dilation: Sizes, groups: int) -> np.ndarray:
    """Padded channels-last images -> (groups, N * places of out, places of the kernel * C / groups), a copy."""
    n, c, d = x.shape[0], x.shape[-1] // groups, len(out)
    rows, places = n * prod(out), prod(kernel)
    if c * kernel[-1] < 16:
        # Runs too short to be copied well: gather a row of the image at a time, into the transpose.
        columns = np.empty((groups, places, c, n, *out), x.dtype, like=x)
        for k, part in enumerate(windows(x, out, kernel, stride, dilation)):
            columns[:, k] = part.reshape(n, *out, groups, c).transpose(d + 1, d + 2, *range(d + 1))
        return columns.reshape(groups, places * c, rows).transpose(0, 2, 1)
    sn, *between, sc = x.strides
    view = strided(
        x,
        (groups, n, *out, *kernel, c),
        (sc * c, sn, *(b * s for b, s in zip(between, stride, strict=True)),
         *(b * s for b, s in zip(between, dilation, strict=True)), sc),
    )  # fmt: skip
    return view.reshape(groups, rows, places * c)


def _matrix(weight: np.ndarray, groups: int) -> np.ndarray:
    """(O, I / groups, *K) -> (groups, O / groups, places of the kernel * I / groups)

    What is moved stays within an output channel, and so in the cache.
    """
    o, i, *kernel = weight.shape
    return channels_last(weight).reshape(groups, o // groups, prod(kernel) * i)


def _blocks(x: np.ndarray, rows: int, columns: int) -> Iterator[slice]:
    """The images x in blocks. rows, columns: of the patch matrix of one of them."""
    n, elements = len(x), _PATCH_ELEMENTS if isinstance(x, np.ndarray) else _PATCH_ELEMENTS_GPU
    step = max(1, elements // max(1, rows * columns), _PATCH_ROWS // max(1, rows))
    return (slice(lo, min(lo + step, n)) for lo in range(0, n, step))


@in_float32
def convolution(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    out: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> np.ndarray:
    """Cross-correlation. x: (N, I, *size), weight: (O, I / groups, *kernel), bias: (O,) -> (N, O, *out)

    y[n, o, i] = bias[o] + sum over c, k of x[n, c, i * stride + k * dilation - padding] weight[o, c, k], for places
    i and k of several dimensions; channels o see the c of their group.
    """
    xl = channels_last(x)
    n, o, kernel = len(x), len(weight), weight.shape[2:]
    y = np.empty((n, *out, o), x.dtype, like=x)
    if depthwise.fits(weight, groups):
        depthwise.convolution(xl, depthwise.matrix(weight), y, stride, padding, dilation)
        if bias is not None:
            y += bias
        return channels_first(y)
    matrix = _matrix(weight, groups)
    for block in _blocks(xl, prod(out), groups * matrix.shape[2]):
        padded = border(xl[block], out, kernel, stride, padding, dilation, 0.0)
        patches = _patches(padded, out, kernel, stride, dilation, groups)
        rows = y[block].reshape(patches.shape[1], groups, o // groups)
        np.matmul(patches, matrix.transpose(0, 2, 1), out=rows.transpose(1, 0, 2))
        if bias is not None:
            y[block] += bias
    return channels_first(y)


@in_float32
def convolution_data_grad(
    g: np.ndarray,
    weight: np.ndarray,
    size: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> np.ndarray:
    """The gradient of `convolution` in x. g: (N, O, *out), weight: (O, I / groups, *kernel) -> (N, I, *size)"""
    gl = channels_last(g)
    n, *rest, o = gl.shape
    i, kernel, out = weight.shape[1], weight.shape[2:], tuple(rest)
    gx = np.empty((n, *size, groups * i), g.dtype, like=g)
    if depthwise.fits(weight, groups):
        depthwise.data_grad(gl, depthwise.matrix(weight), gx, stride, padding, dilation)
        return channels_first(gx)
    matrix, d = _matrix(weight, groups), len(out)
    whole = tuple(max(m, s + p) for m, s, p in zip(needed(out, kernel, stride, dilation), size, padding, strict=True))
    for block in _blocks(gl, prod(out), groups * matrix.shape[2]):
        images = block.stop - block.start
        rows = gl[block].reshape(images * prod(out), groups, o // groups).transpose(1, 0, 2)
        patches = np.matmul(rows, matrix).reshape(groups, images, *out, *kernel, i)
        padded = np.zeros((images, *whole, groups, i), g.dtype, like=g)
        parts = windows(padded, out, kernel, stride, dilation)
        for place, part in zip(product(*map(range, kernel)), parts, strict=True):
            part += patches[(slice(None),) * (d + 2) + place].transpose(*range(1, d + 2), 0, d + 2)
        gx[block] = padded[inside(size, padding)].reshape(images, *size, groups * i)
    return channels_first(gx)


@in_float32
def convolution_weight_grad(
    g: np.ndarray,
    x: np.ndarray,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The gradient of `convolution` in weight. g: (N, O, *out), x: (N, I, *size) -> (O, I / groups, *kernel)

    out: an array that it may be written to; here it is not.
    """
    xl, gl = channels_last(x), channels_last(g)
    n, *rest, o = gl.shape
    size, i = tuple(rest), x.shape[1] // groups
    if groups > 1 and i == 1 and o == groups:
        return depthwise.weight_grad(gl, xl, kernel, stride, padding, dilation)
    gw: np.ndarray | None = None
    for block in _blocks(xl, prod(size), groups * prod(kernel) * i):
        rows = gl[block].reshape((block.stop - block.start) * prod(size), groups, o // groups).transpose(1, 0, 2)
        padded = border(xl[block], size, kernel, stride, padding, dilation, 0.0)
        patches = _patches(padded, size, kernel, stride, dilation, groups)
        # BLAS is fastest where the longer side of a product comes last.
        if patches.shape[2] < rows.shape[2]:
            part = np.matmul(patches.transpose(0, 2, 1), rows).transpose(0, 2, 1)
        else:
            part = np.matmul(rows.transpose(0, 2, 1), patches)
        gw = part if gw is None else np.add(gw, part, out=gw)
    if gw is None:
        gw = np.zeros((groups, o // groups, prod(kernel) * i), g.dtype, like=g)
    return channels_first(gw.reshape(o, *kernel, i))


@in_float32
def channel_sums(x: np.ndarray) -> np.ndarray:
    """The sum of each channel. (N, C, *S) -> (C,)"""
    return sum_rows(channels_last(x).reshape(-1, x.shape[1])) if x.size else np.zeros(x.shape[1], x.dtype, like=x)
