"""Every hand-made kernel in plain NumPy: the specification, and the oracle of all tests.

Images are (N, C, H, W) to the caller. Inside they are handled channels last, (N, H, W, C), because
then a patch of an image is a few long runs of memory and a convolution one matrix product; results
are returned as views of such arrays in PyTorch's shape, so the next kernel finds its layout without
a copy. Sums over many rows are matrix products with ones: BLAS does them fastest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_grad",
    "attention",
    "attention_grad",
    "avg_pool2d",
    "avg_pool2d_grad",
    "batch_norm",
    "batch_norm_grad",
    "batch_norm_grad_sums",
    "batch_norm_stats",
    "conv2d",
    "conv2d_grad",
    "cross_entropy",
    "cross_entropy_grad",
    "dropout_mask",
    "embedding_grad",
    "erf",
    "gelu",
    "layer_norm",
    "layer_norm_grad",
    "log_softmax",
    "max_pool2d",
    "max_pool2d_grad",
    "softmax",
]

Pair = tuple[int, int]

# Elements of the patch matrix of a block of images: 1 MiB of float32, so that it stays in the L2 cache; but
# rows enough for the weights, which are read once for each block, to be used often.
_PATCH_ELEMENTS = 1 << 18
_PATCH_ROWS = 1 << 9


def _channels_last(x: np.ndarray) -> np.ndarray:
    """(N, C, H, W) -> contiguous (N, H, W, C); no copy where the memory is so already."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def _sum_rows(x: np.ndarray) -> np.ndarray:
    """(R, C) -> (C,)"""
    return np.ones(len(x), x.dtype) @ x


# -- convolution -------------------------------------------------------------------------------------


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
        for k, part in enumerate(_windows(x, out, kernel, stride, dilation)):
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
    xl = _channels_last(x)
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
    xl, gl = _channels_last(x), _channels_last(g)
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
        _sum_rows(gl.reshape(-1, o)) if needs[2] else None,
    ]


# -- pooling -----------------------------------------------------------------------------------------


def _windows(x: np.ndarray, out: Pair, kernel: Pair, stride: Pair, dilation: Pair) -> Iterator[np.ndarray]:
    """For each element of the window, row by row, the view (N, OH, OW, C) of what falls on it."""
    for k in range(kernel[0]):
        for m in range(kernel[1]):
            yield x[:, _every(k * dilation[0], out[0], stride[0]), _every(m * dilation[1], out[1], stride[1])]


def _border(
    x: np.ndarray, out: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, fill: float
) -> np.ndarray:
    """Channels-last images with a border of `fill`, wide enough for every window."""
    n, h, w, c = x.shape
    need_h = (out[0] - 1) * stride[0] + dilation[0] * (kernel[0] - 1) + 1
    need_w = (out[1] - 1) * stride[1] + dilation[1] * (kernel[1] - 1) + 1
    height, width = max(need_h, h + padding[0]), max(need_w, w + padding[1])
    if (height, width) == (h, w):
        return x
    padded = np.full((n, height, width, c), fill, x.dtype)
    padded[:, padding[0] : padding[0] + h, padding[1] : padding[1] + w] = x
    return padded


def max_pool2d(
    x: np.ndarray, out: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[np.ndarray, np.ndarray]:
    """Maximum over windows. x: (N, C, H, W) -> y (N, C, *out), and which element of its window won.

    The first of equal elements wins, but the last NaN, if there is any, as in PyTorch.
    """
    xl = _border(_channels_last(x), out, kernel, stride, padding, dilation, -math.inf)
    # The maximum of every row of a window, then the maximum of these: runs of memory stay long.
    columns = [_every(m * dilation[1], out[1], stride[1]) for m in range(kernel[1])]
    rows = [_every(k * dilation[0], out[0], stride[0]) for k in range(kernel[0])]
    number = np.uint8 if kernel[0] * kernel[1] <= 256 else np.uint16
    y, winner = _best([xl[:, :, c] for c in columns], [number(m) for m in range(kernel[1])])
    y, winner = _best([y[:, r] for r in rows], [winner[:, r] + number(k * kernel[1]) for k, r in enumerate(rows)])
    return y.transpose(0, 3, 1, 2), winner.transpose(0, 3, 1, 2)


def _every(start: int, n: int, stride: int) -> slice:
    return slice(start, start + stride * n, stride)


def _best(parts: list[np.ndarray], numbers: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """The elementwise maximum of the parts, and the number of the part that has it; numbers rise."""
    y = np.array(parts[0])
    winner = np.zeros(y.shape, numbers[0].dtype) + numbers[0]
    for part, number in zip(parts[1:], numbers[1:], strict=True):
        better = (part > y) | (part != part)
        # As numbers rise, the maximum is the number of the last part that was better.
        np.maximum(winner, better * number, out=winner)
        np.maximum(y, part, out=y)
    return y, winner


def max_pool2d_grad(
    g: np.ndarray, winner: np.ndarray, shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> np.ndarray:
    """Gradient of max_pool2d with respect to its input of `shape`: g goes to the element that won."""
    gl, wl = _channels_last(g), _channels_last(winner)
    n, c, h, w = shape
    out = gl.shape[1:3]
    gx = _border(np.zeros((n, h, w, c), g.dtype), out, kernel, stride, padding, dilation, 0.0)
    for k, part in enumerate(_windows(gx, out, kernel, stride, dilation)):
        part += gl * (wl == k)
    return gx[:, padding[0] : padding[0] + h, padding[1] : padding[1] + w].transpose(0, 3, 1, 2)


def avg_pool2d(x: np.ndarray, out: Pair, kernel: Pair, stride: Pair, padding: Pair, count: np.ndarray) -> np.ndarray:
    """Sum over windows / count. x: (N, C, H, W), count: out -> (N, C, *out)"""
    xl = _border(_channels_last(x), out, kernel, stride, padding, (1, 1), 0.0)
    parts = _windows(xl, out, kernel, stride, (1, 1))
    y = np.array(next(parts))
    for part in parts:
        y += part
    y /= count[:, :, None].astype(x.dtype)
    return y.transpose(0, 3, 1, 2)


def avg_pool2d_grad(
    g: np.ndarray, shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair, count: np.ndarray
) -> np.ndarray:
    """Gradient of avg_pool2d with respect to its input of `shape`."""
    share = _channels_last(g) / count[:, :, None].astype(g.dtype)
    n, c, h, w = shape
    out = share.shape[1:3]
    gx = _border(np.zeros((n, h, w, c), g.dtype), out, kernel, stride, padding, (1, 1), 0.0)
    for part in _windows(gx, out, kernel, stride, (1, 1)):
        part += share
    return gx[:, padding[0] : padding[0] + h, padding[1] : padding[1] + w].transpose(0, 3, 1, 2)


def _bins(size: int, out: int) -> np.ndarray:
    """(out, size): row i has 1 / length over bin i, which is [floor(i size / out), ceil((i + 1) size / out))."""
    matrix = np.zeros((out, size))
    for i in range(out):
        lo, hi = i * size // out, -(-(i + 1) * size // out)
        matrix[i, lo:hi] = 1 / (hi - lo)
    return matrix


def adaptive_avg_pool2d(x: np.ndarray, out: Pair) -> np.ndarray:
    """Mean over out[0] x out[1] bins that cover the image. x: (N, C, H, W) -> (N, C, *out)"""
    rows, columns = (_bins(size, o).astype(x.dtype) for size, o in zip(x.shape[2:], out, strict=True))
    return rows @ x @ columns.T


def adaptive_avg_pool2d_grad(g: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Gradient of adaptive_avg_pool2d with respect to its input of `shape`."""
    rows, columns = (_bins(size, o).astype(g.dtype) for size, o in zip(shape[2:], g.shape[2:], strict=True))
    return rows.T @ g @ columns


# -- normalisation -----------------------------------------------------------------------------------


def _channel_rows(x: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """(N, C, ...) -> (R, C), and the way back."""
    if x.ndim == 2:
        return x, lambda rows: rows
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    return last.reshape(-1, x.shape[1]), lambda rows: np.moveaxis(rows.reshape(last.shape), -1, 1)


def batch_norm(
    x: np.ndarray,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    mean: np.ndarray | None,
    var: np.ndarray | None,
    eps: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(x - mean) / sqrt(var + eps) * weight + bias per channel. x: (N, C, ...), the others (C,)

    mean and var None: those of x (biased). Returns y, mean, var, and for the gradient the normalised
    rows (R, C) and 1 / sqrt(var + eps).
    """
    rows, back = _channel_rows(x)
    if mean is None or var is None:
        share = rows.dtype.type(1 / max(1, len(rows)))
        mean = _sum_rows(rows) * share
        normal = rows - mean
        var = _sum_rows(normal * normal) * share
    else:
        normal = rows - mean
    scale = (1 / np.sqrt(var + eps)).astype(x.dtype)
    normal *= scale
    y = normal if weight is None else normal * weight
    if bias is not None:
        y = y + bias if y is normal else np.add(y, bias, out=y)
    return back(y), mean, var, normal, scale


def batch_norm_stats(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per channel, the mean of x and the sum of (x - mean)^2, both 0 where there is no sample. (N, C, ...) -> (C,)"""
    rows, _ = _channel_rows(x)
    mean = _sum_rows(rows) * rows.dtype.type(1 / max(1, len(rows)))
    centred = rows - mean
    return mean, _sum_rows(centred * centred)


def batch_norm_grad_sums(g: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per channel, the sums of g and of g times the normalised x: the gradients of bias and weight. (C,)"""
    rows, _ = _channel_rows(g)
    return _sum_rows(rows), _sum_rows(rows * normal)


def batch_norm_grad(
    g: np.ndarray,
    normal: np.ndarray,
    scale: np.ndarray,
    weight: np.ndarray | None,
    batch_statistics: bool,
    needs: Sequence[bool],
    sums: tuple[np.ndarray, np.ndarray, float] | None = None,
) -> list[np.ndarray | None]:
    """Gradients of batch_norm with respect to x, weight and bias, those that are needed.

    sums: where x was a part of the batch whose statistics were taken, batch_norm_grad_sums of the whole batch,
    and its number of values per channel.
    """
    rows, back = _channel_rows(g)
    g_bias, g_weight = _sum_rows(rows), _sum_rows(rows * normal)
    gx = None
    if needs[0]:
        factor = scale if weight is None else scale * weight
        if batch_statistics:
            of_g, of_g_normal, count = (g_bias, g_weight, len(rows)) if sums is None else sums
            share = rows.dtype.type(1 / max(1, count))
            gx = normal * (of_g_normal * -share)
            gx += rows
            gx -= of_g * share
            gx *= factor
        else:
            gx = rows * factor
        gx = back(gx)
    return [gx, g_weight if needs[1] else None, g_bias if needs[2] else None]


def layer_norm(
    x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x - mean) / sqrt(var + eps) * weight + bias over each row. x: (R, D), weight, bias: (D,)

    Returns y, and for the gradient the normalised rows and 1 / sqrt(var + eps) (R, 1).
    """
    normal = x - x.mean(1, keepdims=True)
    var = np.mean(normal * normal, 1, keepdims=True)
    scale = (1 / np.sqrt(var + eps)).astype(x.dtype)
    normal *= scale
    y = normal if weight is None else normal * weight
    if bias is not None:
        y = y + bias if y is normal else np.add(y, bias, out=y)
    return y, normal, scale


def layer_norm_grad(
    g: np.ndarray, normal: np.ndarray, scale: np.ndarray, weight: np.ndarray | None, needs: Sequence[bool]
) -> list[np.ndarray | None]:
    """Gradients of layer_norm with respect to x, weight and bias, those that are needed. g: (R, D)"""
    gx = None
    if needs[0]:
        gx = g * weight if weight is not None else g.copy()
        along = np.mean(gx * normal, 1, keepdims=True)
        gx -= gx.mean(1, keepdims=True)
        gx -= normal * along
        gx *= scale
    return [gx, _sum_rows(g * normal) if needs[1] else None, _sum_rows(g) if needs[2] else None]


# -- softmax and its loss ----------------------------------------------------------------------------


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """exp(x) / sum(exp(x)) along axis; the maximum is taken off first, so that nothing overflows."""
    if not x.size:
        return x.copy()
    y = np.exp(x - x.max(axis, keepdims=True))
    y /= y.sum(axis, keepdims=True)
    return y


def log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """x - log(sum(exp(x))) along axis."""
    if not x.size:
        return x.copy()
    y = x - x.max(axis, keepdims=True)
    y -= np.log(np.exp(y).sum(axis, keepdims=True))
    return y


def cross_entropy(
    logits: np.ndarray, target: np.ndarray, weight: np.ndarray | None, smoothing: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-weight[r] log p[r, target[r]] for each row, with label smoothing. logits: (R, C), target, weight: (R,)

    With smoothing s, the loss of a row is weight * ((1 - s) * -log p[target] + s / C * sum over c of -log p[c]).
    Returns the losses (R,), and for the gradient e^(logits - their maximum) (R, C) and its sums (R,).
    """
    shifted = logits - np.maximum.reduce(logits, 1, keepdims=True)
    e = np.exp(shifted)
    total = np.add.reduce(e, 1)
    loss = -shifted[np.arange(len(target)), target]
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
    gx[np.arange(len(target)), target] -= each * gx.dtype.type(1 - smoothing)
    return gx


# -- attention ---------------------------------------------------------------------------------------

# Elements of a block of attention weights: 256 KiB of float32, so that all passes over it stay in the L2 cache.
_WEIGHT_ELEMENTS = 1 << 16


class _WeightBlock(NamedTuple):
    """Where a block of attention weights lies in queries, in keys and in the weights, all heads at once.

    bias: what is added to its last keys in causal attention: -inf for those later than their query.
    """

    queries: tuple[Any, ...]
    keys: tuple[Any, ...]
    weights: tuple[Any, ...]
    bias: np.ndarray | None


def _weight_blocks(query: np.ndarray, key: np.ndarray, causal: bool) -> Iterator[_WeightBlock]:
    """Blocks that cover all weights, but for keys after the last query of a causal block, of which it sees nothing."""
    *lead, length, _ = query.shape
    seen = key.shape[-2]
    step = max(1, _WEIGHT_ELEMENTS // max(1, seen * (lead[-1] if lead else 1)))
    later = np.triu(np.full((min(step, length),) * 2, -math.inf, query.dtype), 1)
    for at in np.ndindex(*lead[:-1]):
        for lo in range(0, length, step):
            hi = min(lo + step, length)
            end = min(hi, seen) if causal else seen
            rows, columns, all_ = slice(lo, hi), slice(0, end), slice(None)
            bias = later[: hi - lo, : max(0, end - lo)] if causal else None
            yield _WeightBlock((*at, ..., rows, all_), (*at, ..., columns, all_), (*at, ..., rows, columns), bias)


def _scores(query: np.ndarray, key: np.ndarray, bias: np.ndarray | None, block: _WeightBlock) -> np.ndarray:
    """query key^T + bias in a block. query: of the block, key, bias: whole."""
    scores = np.matmul(query, key[block.keys].swapaxes(-1, -2))
    if bias is not None:
        scores += bias[block.weights]
    if block.bias is not None:
        n = block.bias.shape[1]
        square = scores[..., scores.shape[-1] - n :]
        square += block.bias
    return scores


def attention(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    *,
    bias: np.ndarray | None,
    causal: bool,
    scale: float,
    kept: np.ndarray | None,
    kept_scale: float,
) -> tuple[np.ndarray, np.ndarray]:
    """softmax(scale query key^T + bias) value. query: (..., L, E), key: (..., S, E), value: (..., S, V) -> (..., L, V)

    bias: (..., L, S). causal: query i sees keys 0 to i. kept: (..., L, S), which weights dropout keeps, to be
    multiplied by kept_scale. Returns y, in the memory layout of query, and for the gradient log(sum(exp(scores)))
    (..., L, 1); a query that sees no key gives 0 and 0.
    """
    y = np.empty_like(query, shape=(*query.shape[:-1], value.shape[-1]))
    log_sums = np.empty((*query.shape[:-1], 1), query.dtype)
    for block in _weight_blocks(query, key, causal):
        weights = _scores(query[block.queries] * query.dtype.type(scale), key, bias, block)
        top = weights.max(-1, keepdims=True, initial=-math.inf)
        top[top == -math.inf] = 0
        weights -= top
        np.exp(weights, out=weights)
        total = weights.sum(-1, keepdims=True)
        total[total == 0] = 1
        if kept is not None:
            weights *= kept[block.weights] * weights.dtype.type(kept_scale)
        part = y[block.queries]
        np.matmul(weights, value[block.keys], out=part)
        part /= total
        log_sums[block.queries] = np.log(total) + top
    return y, log_sums


def attention_grad(
    g: np.ndarray,
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    y: np.ndarray,
    log_sums: np.ndarray,
    *,
    bias: np.ndarray | None,
    causal: bool,
    scale: float,
    kept: np.ndarray | None,
    kept_scale: float,
    needs_bias: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Gradients of attention with respect to query, key, value and, if needed, bias. g: (..., L, V)

    The weights p are made again. With dropout's factors f, value gets (f p)^T g, and the scores
    p (f (g value^T) - sum(g y)).
    """
    g_query, g_key, g_value = np.empty_like(query), np.zeros_like(key), np.zeros_like(value)
    g_bias = np.zeros(bias.shape, bias.dtype) if bias is not None and needs_bias else None
    along = (g * y).sum(-1, keepdims=True)
    for block in _weight_blocks(query, key, causal):
        scaled = query[block.queries] * query.dtype.type(scale)
        weights = _scores(scaled, key, bias, block)
        weights -= log_sums[block.queries]
        np.exp(weights, out=weights)
        g_scores = np.matmul(g[block.queries], value[block.keys].swapaxes(-1, -2))
        dropped = weights
        if kept is not None:
            factor = kept[block.weights] * weights.dtype.type(kept_scale)
            g_scores *= factor
            dropped = weights * factor
        g_value[block.keys] += np.matmul(dropped.swapaxes(-1, -2), g[block.queries])
        g_scores -= along[block.queries]
        g_scores *= weights
        if g_bias is not None:
            g_bias[block.weights] = g_scores
        part = g_query[block.queries]
        np.matmul(g_scores, key[block.keys], out=part)
        part *= query.dtype.type(scale)
        g_key[block.keys] += np.matmul(g_scores.swapaxes(-1, -2), scaled)
    return g_query, g_key, g_value, g_bias


# -- the rest ----------------------------------------------------------------------------------------


def embedding_grad(g: np.ndarray, index: np.ndarray, rows: int) -> np.ndarray:
    """Sum of the rows of g that fall on each row of the table. g: (R, D), index: (R,) -> (rows, D)

    The sum of a row is that of its own rows of g in the order of their positions, taken by NumPy in
    pairs: it depends neither on scheduling nor on what lies between them.
    """
    order = np.argsort(index, kind="stable")
    present, first = np.unique(index[order], return_index=True)
    table = np.zeros((rows, g.shape[1]), g.dtype)
    if len(present):
        table[present] = np.add.reduceat(g[order], first, axis=0)
    return table


def dropout_mask(generator: np.random.Generator, shape: tuple[int, ...], p: float) -> np.ndarray:
    """True where an element is kept: word i of the stream (32 bits, little end first) >= p * 2^32."""
    n = math.prod(shape)
    words = np.asarray(generator.bit_generator.random_raw((n + 1) // 2), np.uint64).astype("<u8", copy=False)
    return (words.view("<u4")[:n] >= np.uint32(min(p * 2**32, 2**32 - 1))).reshape(shape)


def _erf_and_exp(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """erf(x) and exp(-x^2); see `erf`."""
    a = np.abs(x)
    e = a * a
    np.negative(e, out=e)
    np.exp(e, out=e)
    if x.dtype == np.float32:
        t = a
        t *= np.float32(0.3275911)
        t += 1
        np.reciprocal(t, out=t)
        tail = t * np.float32(1.061405429)
        for c in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
            tail += np.float32(c)
            tail *= t
        tail *= e
        return np.copysign(np.subtract(1, tail, out=tail), x, out=tail), e
    near = np.minimum(a, 2.5)
    term = near.copy()
    series = near.copy()
    for n in range(1, 60):
        term = term * (2 * near * near) / (2 * n + 1)
        series += term
    series *= 2 / math.sqrt(math.pi) * np.exp(-near * near)
    far = np.clip(a, 2.5, 27.0)
    fraction = np.zeros_like(far)
    for n in range(60, 0, -1):
        fraction = n / 2 / (far + fraction)
    tail = np.exp(-far * far) / (math.sqrt(math.pi) * (far + fraction))
    return np.copysign(np.where(a < 2.5, series, 1 - tail), x), e


def erf(x: np.ndarray) -> np.ndarray:
    """The error function 2 / sqrt(pi) * integral of exp(-t^2) from 0 to x.

    float32: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26 (absolute error 1.5e-7, 5e-7 with
    rounding).
    float64: the power series where |x| < 2.5, the continued fraction of erfc (7.1.6 and 7.1.14 there) beyond.
    """
    return _erf_and_exp(x)[0]


# Elements worked on at a time by what makes many passes: these stay in the cache.
_CHUNK_ELEMENTS = 1 << 15


def gelu(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x * Phi(x), Phi the normal distribution function (1 + erf(x / sqrt(2))) / 2, and its slope, for the gradient.

    The slope is Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi).
    """
    y, slope = np.empty_like(x), np.empty_like(x)
    chunks = np.nditer(
        [x, y, slope],
        ["external_loop", "buffered", "zerosize_ok"],
        [["readonly"], ["writeonly"], ["writeonly"]],
        buffersize=_CHUNK_ELEMENTS,
    )
    with chunks:
        for part, of_y, of_slope in chunks:
            phi, density = _erf_and_exp(part * x.dtype.type(math.sqrt(0.5)))
            phi += 1
            phi *= 0.5
            np.multiply(part, phi, out=of_y)
            density *= part
            density *= 1 / math.sqrt(2 * math.pi)
            np.add(density, phi, out=of_slope)
    return y, slope
