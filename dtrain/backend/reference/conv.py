"""Convolution of images, as products of patch matrices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided

from dtrain.backend.reference.layout import Pair, channels_last, sum_rows, windows

__all__ = ["conv2d", "conv2d_grad"]


# Elements of the patch matrix of a block of images: 1 MiB of float32, so that it stays in the L2 cache; but
# rows enough for the weights, which are read once for each block, to be used often.
_PATCH_ELEMENTS = 1 << 18
_PATCH_ROWS = 1 << 9


def _out_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _pad(x: np.ndarray, padding: Pair) -> np.ndarray:
    """Channels-last images with a border of zeros."""
    (ph, pw), (n, h, w, c) = padding, x.shape
    if not ph and not pw:
        return x
    padded = np.zeros((n, h + 2 * ph, w + 2 * pw, c), x.dtype)
    padded[:, ph : ph + h, pw : pw + w] = x
    return padded


def _patches(x: np.ndarray, out: Pair, kernel: Pair, stride: Pair, dilation: Pair, groups: int) -> np.ndarray:
    """Padded channels-last images -> (groups, N * OH * OW, KH * KW * C / groups), a copy."""
    n, _, _, c = x.shape
    c //= groups
    if c * kernel[1] < 16:
        # Runs too short to be copied well: gather a row of the image at a time, into the transpose.
        columns = np.empty((groups, kernel[0] * kernel[1], c, n, *out), x.dtype)
        for k, part in enumerate(windows(x, out, kernel, stride, dilation)):
            columns[:, k] = part.reshape(n, *out, groups, c).transpose(3, 4, 0, 1, 2)
        return columns.reshape(groups, kernel[0] * kernel[1] * c, -1).transpose(0, 2, 1)
    sn, sh, sw, sc = x.strides
    view = as_strided(
        x,
        (groups, n, *out, *kernel, c),
        (sc * c, sn, sh * stride[0], sw * stride[1], sh * dilation[0], sw * dilation[1], sc),
    )
    return view.reshape(groups, n * out[0] * out[1], kernel[0] * kernel[1] * c)


def _matrix(weight: np.ndarray, groups: int) -> np.ndarray:
    """(O, I / groups, KH, KW) -> (groups, O / groups, KH * KW * I / groups)

    What is moved stays within an output channel, and so in the cache.
    """
    o, i, kh, kw = weight.shape
    return np.ascontiguousarray(weight.transpose(0, 2, 3, 1)).reshape(groups, o // groups, kh * kw * i)


def _blocks(n: int, rows: int, columns: int) -> Iterator[slice]:
    """Images in blocks. rows, columns: of the patch matrix of one of them."""
    step = max(1, _PATCH_ELEMENTS // max(1, rows * columns), _PATCH_ROWS // max(1, rows))
    return (slice(lo, min(lo + step, n)) for lo in range(0, n, step))


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> np.ndarray:
    """Cross-correlation. x: (N, I, H, W), weight: (O, I / groups, KH, KW), bias: (O,) -> (N, O, OH, OW)

    y[n, o, i, j] = bias[o] + sum over c, k, l of x[n, c, i * stride + k * dilation - padding, ...] weight[o, c, k, l]
    """
    xl = channels_last(x)
    n, h, w, _ = xl.shape
    o, _, kh, kw = weight.shape
    oh = _out_size(h, kh, stride[0], padding[0], dilation[0])
    ow = _out_size(w, kw, stride[1], padding[1], dilation[1])
    matrix = _matrix(weight, groups)
    y = np.empty((n, oh, ow, o), x.dtype)
    for block in _blocks(n, oh * ow, groups * matrix.shape[2]):
        patches = _patches(_pad(xl[block], padding), (oh, ow), (kh, kw), stride, dilation, groups)
        rows = y[block].reshape(patches.shape[1], groups, o // groups)
        np.matmul(patches, matrix.transpose(0, 2, 1), out=rows.transpose(1, 0, 2))
        if bias is not None:
            y[block] += bias
    return y.transpose(0, 3, 1, 2)


def conv2d_grad(
    g: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    needs: Sequence[bool],
) -> list[np.ndarray | None]:
    """Gradients of conv2d with respect to x, weight and bias, those that are needed. g: (N, O, OH, OW)"""
    xl, gl = channels_last(x), channels_last(g)
    n, h, w, c = xl.shape
    o, i, kh, kw = weight.shape
    _, oh, ow, _ = gl.shape
    (ph, pw), (sh, sw), (dh, dw) = padding, stride, dilation
    matrix = _matrix(weight, groups)
    gx = np.empty(xl.shape, x.dtype) if needs[0] else None
    gw = np.zeros(matrix.shape, weight.dtype) if needs[1] else None
    for block in _blocks(n, oh * ow, groups * matrix.shape[2]):
        rows = gl[block].reshape(-1, groups, o // groups).transpose(1, 0, 2)
        if gw is not None:
            patches = _patches(_pad(xl[block], padding), (oh, ow), (kh, kw), stride, dilation, groups)
            # BLAS is fastest where the longer side of a product comes last.
            if patches.shape[2] < rows.shape[2]:
                gw += np.matmul(patches.transpose(0, 2, 1), rows).transpose(0, 2, 1)
            else:
                gw += np.matmul(rows.transpose(0, 2, 1), patches)
        if gx is not None:
            patches = np.matmul(rows, matrix).reshape(groups, -1, oh, ow, kh, kw, i)
            padded = np.zeros((patches.shape[1], h + 2 * ph, w + 2 * pw, groups, i), x.dtype)
            for k in range(kh):
                for m in range(kw):
                    top, left = k * dh, m * dw
                    part = padded[:, top : top + sh * oh : sh, left : left + sw * ow : sw]
                    part += patches[:, :, :, :, k, m].transpose(1, 2, 3, 0, 4)
            gx[block] = padded[:, ph : ph + h, pw : pw + w].reshape(-1, h, w, c)
    if gw is not None:
        gw = gw.reshape(o, kh, kw, i).transpose(0, 3, 1, 2)
    return [
        None if gx is None else gx.transpose(0, 3, 1, 2),
        gw,
        sum_rows(gl.reshape(-1, o)) if needs[2] else None,
    ]
