"""Images as columns of windows, and columns added up to images: each is the other's gradient."""

from __future__ import annotations

import itertools
from typing import Any

from dtrain.autograd import op
from dtrain.backend import xp_of
from dtrain.ops.dtypes import plain
from dtrain.ops.geometry import Sizes, batched, numbers
from dtrain.ops.shape import reshape, squeeze

__all__ = ["fold", "from_windows", "to_windows", "unfold"]


def _windows(size: Sizes, kernel: Sizes, dilation: Sizes, padding: Sizes, stride: Sizes) -> Sizes:
    """How many windows there are along each dimension."""
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, d, p, s in zip(size, kernel, dilation, padding, stride, strict=True)
    )


def _places(offset: Sizes, out: Sizes, dilation: Sizes, stride: Sizes) -> tuple[Any, ...]:
    """The pixels of the padded image at one place of all windows."""
    return (
        ...,
        *(slice(i * d, i * d + (o - 1) * s + 1, s) for i, o, d, s in zip(offset, out, dilation, stride, strict=True)),
    )


@op
def to_windows(x: Any, out: Sizes, kernel: Sizes, dilation: Sizes, padding: Sizes, stride: Sizes) -> Any:
    """(N, C, *S) -> (N, C, *kernel, *out): the pixels of all windows; padding is zeros."""
    y = plain(x)
    xp, size = xp_of(y), y.shape[2:]
    padded = xp.zeros((*y.shape[:2], *(n + 2 * p for n, p in zip(size, padding, strict=True))), y.dtype)
    padded[(..., *(slice(p, p + n) for p, n in zip(padding, size, strict=True)))] = y
    columns = xp.empty((*y.shape[:2], *kernel, *out), y.dtype)
    for offset in itertools.product(*map(range, kernel)):
        columns[(slice(None), slice(None), *offset)] = padded[_places(offset, out, dilation, stride)]
    return columns, lambda g: from_windows.raw(g, size, kernel, dilation, padding, stride)


@op
def from_windows(g: Any, size: Sizes, kernel: Sizes, dilation: Sizes, padding: Sizes, stride: Sizes) -> Any:
    """(N, C, *kernel, *out) -> (N, C, *size): what falls on one pixel is added, in the order of places in a window."""
    h = plain(g)
    out = h.shape[2 + len(kernel) :]
    padded = xp_of(h).zeros((*h.shape[:2], *(n + 2 * p for n, p in zip(size, padding, strict=True))), h.dtype)
    for offset in itertools.product(*map(range, kernel)):
        padded[_places(offset, out, dilation, stride)] += h[(slice(None), slice(None), *offset)]
    image = padded[(..., *(slice(p, p + n) for p, n in zip(padding, size, strict=True)))]
    return image, lambda k: to_windows.raw(k, out, kernel, dilation, padding, stride)


def _options(kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> tuple[Sizes, Sizes, Sizes, Sizes]:
    return (
        numbers("kernel_size", kernel_size, 2, 1),
        numbers("dilation", dilation, 2, 1),
        numbers("padding", padding, 2, 0),
        numbers("stride", stride, 2, 1),
    )


def unfold(input: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    """Windows as columns. (N, C, H, W) -> (N, C kh kw, L), or all without N; L counts the windows, row by row.

    Raises ValueError for other shapes and windows larger than the padded image.
    """
    kernel, dilation, padding, stride = options = _options(kernel_size, dilation, padding, stride)
    x = batched("unfold", input, 2)
    out = _windows(x.shape[2:], *options)
    if min(out) < 1:
        raise ValueError(
            f"unfold: windows of {kernel} (dilation {dilation}) are larger than an input of shape {input.shape} "
            f"with padding {padding}"
        )
    rows, columns = x.shape[1] * kernel[0] * kernel[1], out[0] * out[1]
    batch = x.shape[:1] if x is input else ()
    return reshape(to_windows(x, out, *options), *batch, rows, columns)


def fold(input: Any, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    """Columns added up to images, the gradient of `unfold`. (N, C kh kw, L) -> (N, C, *output_size), or all without N.

    Raises ValueError for other shapes: channels that the kernel does not divide, another L than there are windows.
    """
    size = numbers("output_size", output_size, 2, 1)
    kernel, dilation, padding, stride = options = _options(kernel_size, dilation, padding, stride)
    x = batched("fold", input, 1)
    out, area = _windows(size, *options), kernel[0] * kernel[1]
    if x.shape[1] % area:
        raise ValueError(f"fold: a kernel of {kernel} does not divide the {x.shape[1]} rows of shape {input.shape}")
    if min(out) < 1 or x.shape[2] != out[0] * out[1]:
        raise ValueError(
            f"fold: an image of {size} with padding {padding} has {max(out[0], 0)} x {max(out[1], 0)} windows "
            f"of {kernel} (dilation {dilation}, stride {stride}), the input has {x.shape[2]} columns, "
            f"its shape is {input.shape}"
        )
    y = from_windows(reshape(x, x.shape[0], x.shape[1] // area, *kernel, *out), size, *options)
    return y if x is input else squeeze(y, 0)
