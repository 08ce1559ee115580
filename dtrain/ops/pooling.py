"""Pooling of images."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.autograd import op
from dtrain.backend import Array, backend_of
from dtrain.ops.geometry import numbers

__all__ = ["adaptive_avg_pool2d", "avg_pool2d", "max_pool2d"]


def _images(name: str, x: Array) -> Array:
    if x.ndim not in (3, 4):
        raise ValueError(f"{name} needs images of 3 or 4 dimensions, got shape {x.shape}")
    return x if x.ndim == 4 else x[None]


def _out(name: str, size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Any:
    """The output size: a window may start beyond neither the image nor its left padding."""
    out = []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        if p > k // 2:
            raise ValueError(f"{name}: padding {tuple(padding)} is more than half the kernel {tuple(kernel)}")
        span = n + 2 * p - d * (k - 1) - 1
        o = (-(-span // s) if ceil_mode else span // s) + 1
        if ceil_mode and (o - 1) * s >= n + p:
            o -= 1
        if span < 0 or o < 1:
            raise ValueError(f"{name}: a window of {tuple(kernel)} is larger than the padded image {tuple(size)}")
        out.append(o)
    return tuple(out)


@op
def max_pool2d(
    input: Any,  # noqa: A002
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    """The maximum over windows. (N, C, H, W) or (C, H, W) -> (.., C, OH, OW); stride defaults to kernel_size.

    OH = (H + 2 padding - dilation (kernel - 1) - 1) // stride + 1, rounded up with ceil_mode.
    """
    x = _images("max_pool2d", input)
    kernel = numbers("kernel_size", kernel_size, 2, 1)
    stride = numbers("stride", kernel if stride is None else stride, 2, 1)
    padding, dilation = numbers("padding", padding, 2, 0), numbers("dilation", dilation, 2, 1)
    out = _out("max_pool2d", x.shape[2:], kernel, stride, padding, dilation, ceil_mode)
    kernels = backend_of(x)
    y, winner = kernels.max_pool2d(x, out, kernel, stride, padding, dilation)
    return y.reshape(*input.shape[:-2], *out), lambda g: kernels.max_pool2d_grad(
        g.reshape(winner.shape), winner, x.shape, kernel, stride, padding, dilation
    ).reshape(input.shape)


@op
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

    count_include_pad: whether padding counts as zeros. divisor_override: divide by this instead.
    """
    x = _images("avg_pool2d", input)
    kernel = numbers("kernel_size", kernel_size, 2, 1)
    stride = numbers("stride", kernel if stride is None else stride, 2, 1)
    padding = numbers("padding", padding, 2, 0)
    size = x.shape[2:]
    out = _out("avg_pool2d", size, kernel, stride, padding, (1, 1), ceil_mode)
    if divisor_override == 0:
        raise ValueError("avg_pool2d: divisor_override must not be 0")
    lengths = []
    for n, o, k, s, p in zip(size, out, kernel, stride, padding, strict=True):
        lo = np.arange(o) * s - p
        hi = np.minimum(lo + k, n + p)  # what ceil_mode adds beyond the padding never counts
        lengths.append(hi - lo if count_include_pad else np.minimum(hi, n) - np.maximum(lo, 0))
    count = np.outer(*lengths) if divisor_override is None else np.full(out, divisor_override)
    kernels = backend_of(x)
    y = kernels.avg_pool2d(x, out, kernel, stride, padding, count)
    return y.reshape(*input.shape[:-2], *out), lambda g: kernels.avg_pool2d_grad(
        g.reshape(*x.shape[:2], *out), x.shape, kernel, stride, padding, count
    ).reshape(input.shape)


@op
def adaptive_avg_pool2d(input: Any, output_size: Any) -> Any:  # noqa: A002
    """Means over output_size bins that cover the image. (N, C, H, W) or (C, H, W) -> (.., C, *output_size)

    Bin i of o over n pixels is [floor(i n / o), ceil((i + 1) n / o)). None keeps a size.
    """
    x = _images("adaptive_avg_pool2d", input)
    sizes = (output_size, output_size) if isinstance(output_size, int) or output_size is None else output_size
    out = numbers("output_size", tuple(n if s is None else s for s, n in zip(sizes, x.shape[2:], strict=True)), 2, 1)
    kernels = backend_of(x)
    y = kernels.adaptive_avg_pool2d(x, out)
    return y.reshape(*input.shape[:-2], *out), lambda g: kernels.adaptive_avg_pool2d_grad(
        g.reshape(*x.shape[:2], *out), x.shape
    ).reshape(input.shape)
