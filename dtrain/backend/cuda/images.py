"""Convolution and pooling; see `reference/conv.py` and `reference/pooling.py`.

Images of one and of two dimensions; those of three, and other dtypes than floating-point ones, go the reference's way.
Images lie with their channels last, as everything here leaves them; others are copied first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from math import prod
from typing import Any

import numpy as np

from dtrain.backend import reference
from dtrain.backend.cuda.columns import summed
from dtrain.backend.cuda.host import on_host
from dtrain.backend.cuda.loader import CTYPES, blocks, kernel, wide, word
from dtrain.backend.cuda.product import matmul
from dtrain.backend.reference.layout import Sizes, channels_first, channels_last

__all__ = [
    "adaptive_avg_pool", "adaptive_avg_pool_grad", "avg_pool", "avg_pool_grad", "convolution", "convolution_data_grad",
    "convolution_weight_grad", "max_pool", "max_pool_grad",
]  # fmt: skip

_THREADS = 256
# Elements of a patch matrix; of a larger one so many images at a time are made.
_PATCH_ELEMENTS = 1 << 28
_CHUNKS = 256  # of windows that a depthwise weight's gradient is added up in; the same on all GPUs


def _has_kernels(x: Any, dims: int) -> bool:
    return dims <= 2 and x.dtype in CTYPES and x.dtype.kind not in "biu" and x.size < 1 << 31


def _or_reference(function: Callable[..., Any]) -> Callable[..., Any]:
    other = getattr(reference, function.__name__)
    if function.__name__.startswith("adaptive"):
        other = on_host(other)

    @wraps(function)
    def call(x: Any, *args: Any, **out: Any) -> Any:
        return (function if _has_kernels(x, x.ndim - 2) else other)(x, *args, **out)

    return call


def _two(*sizes: Sizes) -> list[tuple[int, ...]]:
    """Each in two dimensions. Where there is one only the first is filled with 1; for the padding, the last, with 0."""
    fills = [1] * (len(sizes) - 1) + [0]
    return [s if len(s) == 2 else (fill, *s) for s, fill in zip(sizes, fills, strict=True)]


class _Windows:
    """How windows lie on images, for a kernel."""

    def __init__(
        self, size: Sizes, out: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes | None = None
    ) -> None:
        once = (1,) * len(out)
        size, out, kernel, stride, step, padding = _two(size, out, kernel, stride, dilation or once, padding)
        self.places = prod(kernel)
        self.args = tuple(map(np.int32, (*size, *out, *kernel, *stride, *padding, *step)))
        self.is_plain = kernel == stride == (1, 1) and padding == (0, 0) and size == out


def _run(function: str, extra: str, channels: int, result: Any, arrays: tuple[Any, ...], ints: tuple[Any, ...]) -> None:
    """Start a kernel that makes an element, or 16 bytes of channels, of `result` in each thread.

    arrays: the kernel's. RUNS among the ints is replaced by how many runs there are in `channels`.
    """
    first = next(a for a in arrays if a.dtype == result.dtype)
    pack = 16 // first.itemsize
    whole = channels % pack == 0 and not any(a.data.ptr % 16 for a in arrays)
    size = pack if whole else 1
    run = kernel("images", f"{function}<{CTYPES[result.dtype]}, {extra}{word(whole)}>")
    ints = tuple(np.int32(channels // size if i is RUNS else i) for i in ints)
    if result.size:
        run(blocks(result.size // size, _THREADS), (_THREADS,), (*arrays, *ints))


RUNS = object()


def _last(x: Any) -> Any:
    """(N, C, *S) -> (N, *S, C), one after another in memory."""
    import cupy

    return cupy.ascontiguousarray(channels_last(x))


# -- convolution -----------------------------------------------------------------------------------


def _matrix(weight: Any, groups: int) -> Any:
    """(O, C / G, *K) -> (G, O / G, places * C / G)"""
    o, i, *kernel_size = weight.shape
    return _last(weight).reshape(groups, o // groups, prod(kernel_size) * i)


def _is_depthwise(outs: int, ins: int, groups: int) -> bool:
    return groups > 1 and ins == 1 and outs == groups


def _images_at_a_time(images: int, elements: int) -> list[slice]:
    step = max(1, min(images, _PATCH_ELEMENTS // max(1, elements)))
    return [slice(lo, min(lo + step, images)) for lo in range(0, images, step)]


def _patches(x: Any, windows: _Windows, out: Sizes, groups: int) -> Any:
    """(N, *S, C) -> (G, N * out, K * C / G); of windows of one element x itself."""
    import cupy

    n, c = len(x), x.shape[-1] // groups
    if windows.is_plain and groups == 1:
        return x.reshape(1, -1, c)
    patches = cupy.empty((groups, n * prod(out), windows.places * c), x.dtype)
    _run("im2col", "", c, patches, (x, patches), (n, groups, RUNS, *windows.args))
    return patches


@_or_reference
def convolution(
    x: Any, weight: Any, bias: Any, out: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
) -> Any:
    """Cross-correlation. x: (N, I, *size), weight: (O, I / groups, *kernel), bias: (O,) -> (N, O, *out)"""
    import cupy

    xl, n, o = _last(x), len(x), len(weight)
    windows = _Windows(x.shape[2:], out, weight.shape[2:], stride, padding, dilation)
    y = cupy.empty((n, *out, o), x.dtype)
    matrix = _matrix(weight, groups)
    if _is_depthwise(o, weight.shape[1], groups):
        of_places = cupy.ascontiguousarray(matrix[:, 0].T)
        _run("depthwise", "", o, y, (xl, of_places, y), (n, RUNS, *windows.args))
    else:
        for part in _images_at_a_time(n, prod(out) * groups * matrix.shape[2]):
            patches = _patches(xl[part], windows, out, groups)
            rows = y[part].reshape(patches.shape[1], groups, o // groups)
            matmul(patches, matrix.swapaxes(1, 2), rows.transpose(1, 0, 2), bias if groups == 1 else None)
    if bias is not None and (groups > 1 or _is_depthwise(o, weight.shape[1], groups)):
        y += bias
    return channels_first(y)


@_or_reference
def convolution_data_grad(
    g: Any, weight: Any, size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
) -> Any:
    """The gradient of `convolution` in x. g: (N, O, *out), weight: (O, I / groups, *kernel) -> (N, I, *size)"""
    import cupy

    gl, n, (o, i, *_) = _last(g), len(g), weight.shape
    out = g.shape[2:]
    windows = _Windows(size, out, weight.shape[2:], stride, padding, dilation)
    gx = cupy.empty((n, *size, groups * i), g.dtype)
    matrix = _matrix(weight, groups)
    if _is_depthwise(o, i, groups):
        of_places = cupy.ascontiguousarray(matrix[:, 0].T)
        _run("depthwise_data_grad", "", o, gx, (gl, of_places, gx), (n, RUNS, *windows.args))
        return channels_first(gx)
    for part in _images_at_a_time(n, prod(out) * groups * matrix.shape[2]):
        rows = gl[part].reshape(-1, groups, o // groups).transpose(1, 0, 2)
        if windows.is_plain and groups == 1:
            matmul(rows, matrix, out=gx[part].reshape(1, -1, i))
            continue
        patches = cupy.empty((groups, rows.shape[1], matrix.shape[2]), g.dtype)
        matmul(rows, matrix, out=patches)
        _run("col2im", "", i, gx[part], (patches, gx[part]), (part.stop - part.start, groups, RUNS, *windows.args))
    return channels_first(gx)


@_or_reference
def convolution_weight_grad(
    g: Any, x: Any, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int, out: Any = None
) -> Any:
    """The gradient of `convolution` in weight. g: (N, O, *out), x: (N, I, *size) -> (O, I / groups, *kernel)

    out: an array that it may be written to; here it is not.
    """
    import cupy

    xl, gl, n, o, size = _last(x), _last(g), len(x), g.shape[1], g.shape[2:]
    i = x.shape[1] // groups
    windows = _Windows(x.shape[2:], size, kernel, stride, padding, dilation)
    if _is_depthwise(o, i, groups):
        sums = _depthwise_weight_grad(gl, xl, windows).astype(g.dtype, copy=False)
        return sums.reshape(*kernel, o).transpose(len(kernel), *range(len(kernel)))[:, None]
    gw = None
    for part in _images_at_a_time(n, prod(size) * groups * windows.places * i):
        rows = gl[part].reshape(-1, groups, o // groups).transpose(1, 2, 0)
        one = matmul(rows, _patches(xl[part], windows, size, groups))
        gw = one if gw is None else gw.astype(wide(g.dtype), copy=False) + one
    if gw is None:
        gw = cupy.zeros(o * windows.places * i, g.dtype)
    return channels_first(gw.astype(g.dtype, copy=False).reshape(o, *kernel, i))


def _depthwise_weight_grad(g: Any, x: Any, windows: _Windows) -> Any:
    """g: (N, *out, C), x: (N, *size, C) -> (places, C), in float32 at least"""
    import cupy

    n, channels = len(x), x.shape[-1]
    rows = g.size // channels
    pack = 16 // x.itemsize
    whole = channels % pack == 0 and not (x.data.ptr % 16 or g.data.ptr % 16)
    runs = channels // pack if whole else channels
    across = 1
    while across < min(32, runs):
        across *= 2
    chunk = max(1, -(-rows // _CHUNKS), min(rows, _THREADS // across))
    chunks = max(1, -(-rows // chunk))
    parts = cupy.zeros((chunks, windows.places, channels), wide(x.dtype))
    if rows:
        run = kernel("images", f"depthwise_weight_parts<{CTYPES[x.dtype]}, {word(whole)}>")
        ints = map(np.int32, (n, runs, chunk, *windows.args))
        run((-(-runs // across), chunks, windows.places), (across, _THREADS // across), (g, x, parts, *ints))
    return summed(parts.reshape(1, chunks, -1))[0].reshape(windows.places, channels)


# -- pooling ---------------------------------------------------------------------------------------


@_or_reference
def max_pool(x: Any, out: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> tuple[Any, Any]:
    """Maximum over windows. x: (N, C, *S) -> y (N, C, *out), and which element of its window won."""
    import cupy

    xl, n, c = _last(x), len(x), x.shape[1]
    y, number = cupy.empty((n, *out, c), x.dtype), _number(kernel)
    winner = cupy.empty(y.shape, number)
    windows = _Windows(x.shape[2:], out, kernel, stride, padding, dilation)
    _run("max_pool", f"{CTYPES[number]}, ", c, y, (xl, y, winner), (n, RUNS, *windows.args))
    return channels_first(y), channels_first(winner)


def _number(kernel: Sizes) -> np.dtype:
    """The dtype of the number of a window's element."""
    return np.dtype(np.uint8 if prod(kernel) <= 256 else np.int32)


@_or_reference
def max_pool_grad(g: Any, kept: Any, size: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> Any:
    """Gradient of max_pool with respect to its input, of `size`: g goes to the element that won."""
    import cupy

    gl, wl, n, c = _last(g), _last(kept), len(g), g.shape[1]
    gx = cupy.empty((n, *size, c), g.dtype)
    windows = _Windows(size, g.shape[2:], kernel, stride, padding, dilation)
    number = f"{CTYPES[wl.dtype]}, "
    _run("max_pool_grad", number, c, gx, (gl, wl, gx), (n, RUNS, *windows.args))
    return channels_first(gx)


@cache
def _on_device(count: bytes, dtype: Any, device: int) -> Any:
    """The numbers of elements of windows, which are the same in every step."""
    import cupy

    return cupy.asarray(np.frombuffer(count, dtype).copy())


def _counts(count: np.ndarray, x: Any) -> Any:
    W = wide(x.dtype)
    return _on_device(np.ascontiguousarray(count, W).tobytes(), W, x.device.id)


def avg_pool(x: Any, out: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, count: np.ndarray) -> Any:
    """Sum over windows / count. x: (N, C, *S), count: out -> (N, C, *out)"""
    import cupy

    if not _has_kernels(x, len(out)):
        return reference.avg_pool(x, out, kernel, stride, padding, cupy.asarray(count))
    xl, n, c = _last(x), len(x), x.shape[1]
    y = cupy.empty((n, *out, c), x.dtype)
    windows = _Windows(x.shape[2:], out, kernel, stride, padding)
    _run("avg_pool", "", c, y, (xl, _counts(count, x), y), (n, RUNS, *windows.args))
    return channels_first(y)


def avg_pool_grad(g: Any, size: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, count: np.ndarray) -> Any:
    """Gradient of avg_pool with respect to its input, of `size`."""
    import cupy

    if not _has_kernels(g, len(size)):
        return reference.avg_pool_grad(g, size, kernel, stride, padding, cupy.asarray(count))
    gl, n, c = _last(g), len(g), g.shape[1]
    gx = cupy.empty((n, *size, c), g.dtype)
    windows = _Windows(size, g.shape[2:], kernel, stride, padding)
    _run("avg_pool_grad", "", c, gx, (gl, _counts(count, g), gx), (n, RUNS, *windows.args))
    return channels_first(gx)


@_or_reference
def adaptive_avg_pool(x: Any, out: Sizes) -> Any:
    """Mean over out bins that cover the image. x: (N, C, *S) -> (N, C, *out)"""
    import cupy

    xl, n, c = _last(x), len(x), x.shape[1]
    y = cupy.empty((n, *out, c), x.dtype)
    two, of_out, _ = _two(x.shape[2:], out, ())
    _run("adaptive_avg_pool", "", c, y, (xl, y), (n, RUNS, *two, *of_out))
    return channels_first(y)


@_or_reference
def adaptive_avg_pool_grad(g: Any, size: Sizes) -> Any:
    """Gradient of adaptive_avg_pool with respect to its input, of `size`."""
    import cupy

    gl, n, c = _last(g), len(g), g.shape[1]
    gx = cupy.empty((n, *size, c), g.dtype)
    two, of_out, _ = _two(size, g.shape[2:], ())
    _run("adaptive_avg_pool_grad", "", c, gx, (gl, gx), (n, RUNS, *two, *of_out))
    return channels_first(gx)
