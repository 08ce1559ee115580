"""Means over windows of images of 1, 2 and 3 dimensions. Maxima are in `max_pooling.py`.

A mean and what it sends back are two linear ops, each the other's gradient.
"""

from __future__ import annotations

from functools import reduce
from math import prod
from typing import Any

import numpy as np

from dtrain.autograd import op
from dtrain.backend import Array, backend_of
from dtrain.ops.dtypes import in_float32, only_floats, plain
from dtrain.ops.geometry import Sizes, Windows, adaptive_size, batched, numbers, unbatched, windows_on

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "lp_pool1d", "lp_pool2d", "lp_pool3d",
]  # fmt: skip


@op
def _mean(x: Any, w: Windows, count: Array) -> Any:
    """(N, C, *size) -> (N, C, *out), the sum over each window / count"""
    a = plain(x)
    y = backend_of(a).avg_pool(a, w.out, w.kernel, w.stride, w.padding, count)
    return y, lambda g: _shares.raw(g, w, count)


@op
def _shares(g: Any, w: Windows, count: Array) -> Any:
    """(N, C, *out) -> (N, C, *size), what `_mean` sends back"""
    a = plain(g)
    y = backend_of(a).avg_pool_grad(a, w.size, w.kernel, w.stride, w.padding, count)
    return y, lambda h: _mean.raw(h, w, count)


def _avg_pool(
    dims: int,
    input: Any,  # noqa: A002
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None = None,
) -> Any:
    name = f"avg_pool{dims}d"
    only_floats(name, input)
    x = batched(name, input, dims)
    w = windows_on(name, x, dims, kernel_size, stride, padding, 1, ceil_mode)
    if divisor_override == 0:
        raise ValueError(f"{name}: divisor_override must not be 0")
    lengths = []
    for n, o, k, s, p in zip(w.size, w.out, w.kernel, w.stride, w.padding, strict=True):
        lo = np.arange(o) * s - p
        hi = np.minimum(lo + k, n + p)  # what ceil_mode adds beyond the padding never counts
        lengths.append(hi - lo if count_include_pad else np.minimum(hi, n) - np.maximum(lo, 0))
    count = reduce(np.multiply.outer, lengths) if divisor_override is None else np.full(w.out, divisor_override)
    return unbatched(_mean(x, w, count), input)


def avg_pool1d(
    input: Any,  # noqa: A002
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """The mean over windows of sequences: `avg_pool2d` in one dimension.  (N, C, L) or (C, L) -> (.., C, OL)

    Raises ValueError for other dimensions, a window larger than the padded input, and padding above half of it.
    """
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    input: Any,  # noqa: A002
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """The mean over windows. (N, C, H, W) or (C, H, W) -> (.., C, OH, OW); stride defaults to kernel_size.

    OH = (H + 2 padding - kernel) // stride + 1, rounded up with ceil_mode. count_include_pad: whether padding counts
    as zeros. divisor_override: divide by this instead. Raises ValueError where a window does not fit.
    """
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@in_float32
def avg_pool3d(
    input: Any,  # noqa: A002
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """The mean over windows of volumes: `avg_pool2d` in three dimensions.  (N, C, D, H, W) -> (N, C, OD, OH, OW)

    Raises ValueError for other dimensions, a window larger than the padded input, and padding above half of it.
    """
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _lp_pool(dims: int, input: Any, norm_type: float, kernel_size: Any, stride: Any, ceil_mode: bool) -> Any:  # noqa: A002
    name = f"lp_pool{dims}d"
    if norm_type == 0:
        raise ValueError(f"{name}: norm_type must not be 0")
    kernel = numbers("kernel_size", kernel_size, dims, 1)
    means = _avg_pool(dims, input**norm_type, kernel, stride, 0, ceil_mode, True)
    # As PyTorch has it: the sums of windows that run over the edge (ceil_mode) are scaled up to whole ones, and
    # negative sums (odd norm_type) stay negative.
    return (means.sign() * means.abs() * prod(kernel)) ** (1 / norm_type)


def lp_pool1d(
    input: Any,  # noqa: A002
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    ceil_mode: bool = False,
) -> Any:
    """The p-norm over windows of sequences: `lp_pool2d` in one dimension.  (N, C, L) or (C, L) -> (.., C, OL)

    Raises ValueError for other dimensions, a window larger than the image, and norm_type 0.
    """
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    input: Any,  # noqa: A002
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    ceil_mode: bool = False,
) -> Any:
    """(sum over the window of x**p)**(1 / p), p = norm_type. (N, C, H, W) or (C, H, W) -> (.., C, OH, OW)

    Not |x|**p, as in PyTorch. The sizes are those of `avg_pool2d`; windows are not padded. A sum of 0 has no gradient.
    Raises ValueError for other dimensions, a window larger than the image, and norm_type 0.
    """
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    input: Any,  # noqa: A002
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    ceil_mode: bool = False,
) -> Any:
    """The p-norm over windows of volumes: `lp_pool2d` in three dimensions.  (N, C, D, H, W) -> (N, C, OD, OH, OW)

    Raises ValueError for other dimensions, a window larger than the image, and norm_type 0.
    """
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)


@op
def _bin_means(x: Any, out: Sizes) -> Any:
    """(N, C, *S) -> (N, C, *out)"""
    a, size = plain(x), x.shape[2:]
    return backend_of(a).adaptive_avg_pool(a, out), lambda g: _bin_shares.raw(g, size)


@op
def _bin_shares(g: Any, size: Sizes) -> Any:
    """(N, C, *out) -> (N, C, *size), what `_bin_means` sends back"""
    a, out = plain(g), g.shape[2:]
    return backend_of(a).adaptive_avg_pool_grad(a, size), lambda h: _bin_means.raw(h, out)


def _adaptive_avg_pool(dims: int, input: Any, output_size: Any) -> Any:  # noqa: A002
    name = f"adaptive_avg_pool{dims}d"
    only_floats(name, input)
    x = batched(name, input, dims)
    return unbatched(_bin_means(x, adaptive_size(output_size, x.shape[2:])), input)


def adaptive_avg_pool1d(input: Any, output_size: Any) -> Any:  # noqa: A002
    """Means over output_size bins that cover a sequence: `adaptive_avg_pool2d` in one dimension.

    (N, C, L) or (C, L) -> (.., C, output_size). Raises ValueError for other dimensions, and for bins below 0.
    """
    return _adaptive_avg_pool(1, input, output_size)


def adaptive_avg_pool2d(input: Any, output_size: Any) -> Any:  # noqa: A002
    """Means over output_size bins that cover the image. (N, C, H, W) or (C, H, W) -> (.., C, *output_size)

    Bin i of o over n pixels is [floor(i n / o), ceil((i + 1) n / o)). None keeps a size. Raises ValueError for
    anything but whole numbers of at least 0.
    """
    return _adaptive_avg_pool(2, input, output_size)


def adaptive_avg_pool3d(input: Any, output_size: Any) -> Any:  # noqa: A002
    """Means over output_size bins that cover the volume: `adaptive_avg_pool2d` in three dimensions.

    (N, C, D, H, W) or (C, D, H, W) -> (.., C, *output_size). Raises ValueError for other dimensions, and for bins below
    0.
    """
    return _adaptive_avg_pool(3, input, output_size)
