"""Sizes of windows that slide over images, for convolution and pooling: one number for each dimension of the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dtrain.ops.shape import squeeze, unsqueeze

__all__ = ["Sizes", "Windows", "adaptive_size", "batched", "numbers", "unbatched", "windows_on"]

Sizes = tuple[int, ...]


def numbers(name: str, value: Any, dims: int, least: int) -> Sizes:
    """One number, or `dims` of them, as `dims` of them. Raises ValueError for anything else or below `least`."""
    given = tuple(value) if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str) else (value,)
    if len(given) == 1:
        given *= dims
    if len(given) != dims or any(
        not isinstance(v, (int, np.integer)) or isinstance(v, bool) or v < least for v in given
    ):
        count = "one whole number" if dims == 1 else f"one or {dims} whole numbers"
        raise ValueError(f"{name} must be {count} of at least {least}, got {value!r}")
    return tuple(map(int, given))


def batched(name: str, input: Any, dims: int, empty: bool = False) -> Any:
    """input (N, C, *S) with `dims` sizes S, or (C, *S) as (1, C, *S). Raises ValueError for other shapes.

    Only N may be 0, or C as well where `empty`.
    """
    if input.ndim not in (dims + 1, dims + 2):
        raise ValueError(
            f"{name} needs an input of {dims + 1} or {dims + 2} dimensions, ((N,) C and {dims} more), got {input.shape}"
        )
    x = unsqueeze(input, 0) if input.ndim == dims + 1 else input
    if 0 in x.shape[1 + empty :]:
        raise ValueError(f"{name} needs images with elements (only N may be 0), got shape {input.shape}")
    return x


def unbatched(y: Any, input: Any) -> Any:
    """y without its first dimension where input came without one."""
    return y if y.ndim == input.ndim else squeeze(y, 0)


class Windows(NamedTuple):
    """How windows lie on images: sizes of the image and of what comes out, and of the windows and their steps."""

    size: Sizes
    out: Sizes
    kernel: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes


def windows_on(
    name: str, x: Any, dims: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Windows:
    """The windows that these options put on x, (N, C, *S). None or () for stride: the kernel's size.

    Out of size n comes (n + 2 padding - dilation (kernel - 1) - 1) // stride + 1, rounded up with ceil_mode, but no
    window starts beyond the image and its left padding. Raises ValueError for options that do not fit.
    """
    kernel = numbers("kernel_size", kernel_size, dims, 1)
    by_kernel = stride is None or isinstance(stride, (list, tuple)) and not stride
    stride = kernel if by_kernel else numbers("stride", stride, dims, 1)
    padding, dilation = numbers("padding", padding, dims, 0), numbers("dilation", dilation, dims, 1)
    size = x.shape[2:]
    out = []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        if p > (d * (k - 1) + 1) // 2:
            raise ValueError(f"{name}: padding {padding} is more than half the kernel {kernel}")
        span = n + 2 * p - d * (k - 1) - 1
        o = (-(-span // s) if ceil_mode else span // s) + 1
        if ceil_mode and (o - 1) * s >= n + p:
            o -= 1
        if span < 0 and not ceil_mode or o < 1:
            raise ValueError(
                f"{name}: a window of {kernel} with dilation {dilation} is larger than the padded image, "
                f"{size} with padding {padding}"
            )
        out.append(o)
    return Windows(size, tuple(out), kernel, stride, padding, dilation)


def adaptive_size(output_size: Any, size: Sizes) -> Sizes:
    """output_size, a number or one for each dimension, as numbers; None keeps what images of `size` have."""
    given = output_size if isinstance(output_size, (list, tuple)) else (output_size,) * len(size)
    if len(given) != len(size):
        raise ValueError(f"output_size must be a number or {len(size)} of them for images of {size}, got {output_size}")
    return numbers("output_size", [n if o is None else o for o, n in zip(given, size, strict=True)], len(size), 0)
