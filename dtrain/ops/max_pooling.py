"""Maxima over windows of images of 1, 2 and 3 dimensions, and back to where they were.

One function finds where the maxima are, for windows of any kind (`_maxima`): those of a kernel that slides, adaptive
bins, and regions drawn at random. The elements there are taken with `take_flat`, which can be differentiated again.
A sliding maximum without indices has a kernel of its own, which is faster.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, as_one_call, op
from dtrain.backend import Array, backend_of
from dtrain.ops.draws import drawn_dtype, next_draw
from dtrain.ops.dtypes import only_floats
from dtrain.ops.geometry import Sizes, Windows, adaptive_size, batched, numbers, unbatched, windows_on
from dtrain.ops.positions import checked_index, place, take_flat

__all__ = [
    "adaptive_max_pool1d", "adaptive_max_pool1d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "fractional_max_pool2d", "fractional_max_pool3d", "max_pool1d", "max_pool2d", "max_pool3d", "max_unpool1d",
    "max_unpool2d", "max_unpool3d",
]  # fmt: skip


def _images(shape: Sizes) -> Array:
    """Where each image of an array (N, C, *S) of `shape` begins: (N, C, 1, ...)"""
    return (np.arange(shape[0] * shape[1]) * prod(shape[2:])).reshape(*shape[:2], *(1,) * (len(shape) - 2))


def _maxima(x: Any, tables: list[Array]) -> tuple[Any, Any]:
    """The maxima of x, (N, C, *S), over the windows of `tables`, and where in their images they are.

    tables: for each dimension the rows that lie in each window, see the kernel `max_places`.
    """
    where = _places(x, tables)
    return take_flat(x, where + _images(x.shape)), Tensor(where)


@as_one_call
def _places(x: Tensor, tables: list[Array]) -> Array:
    return backend_of(x.array).max_places(x.array, tables)


def _result(input: Any, found: tuple[Any, Any], return_indices: bool) -> Any:  # noqa: A002
    values, indices = (unbatched(y, input) for y in found)
    return (values, indices) if return_indices else values


# -- windows that slide ------------------------------------------------------------------------------


@op(halves=True)
def _maximum(x: Any, w: Windows) -> Any:
    """(N, C, *size) -> (N, C, *out)"""
    kernels, size, steps = backend_of(x), x.shape[2:], (w.kernel, w.stride, w.padding, w.dilation)
    y, winner = kernels.max_pool(x, w.out, *steps)
    return y, lambda g: kernels.max_pool_grad(g, winner, size, *steps)


@_maximum.formula
def _(x: Any, w: Windows) -> Any:
    return _maxima(x, _tables(w))[0]


def _tables(w: Windows) -> list[Array]:
    """The rows in each window. In the place of padding stands the window's first or last row of the image."""
    tables = []
    for n, o, k, s, p, d in zip(*w, strict=True):
        rows = (np.arange(o) * s - p)[:, None] + np.arange(k) * d
        first, last = np.maximum(rows[:, :1], rows[:, :1] % d), rows[:, :1] + (n - 1 - rows[:, :1]) // d * d
        if (last < first).any():
            raise ValueError(f"a window of {w.kernel} with dilation {w.dilation} passes over images of {w.size}")
        tables.append(np.clip(rows, first, last))
    return tables


def _max_pool(
    dims: int,
    input: Any,  # noqa: A002
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    return_indices: bool,
) -> Any:
    name = f"max_pool{dims}d"
    x = batched(name, input, dims)
    w = windows_on(name, x, dims, kernel_size, stride, padding, dilation, ceil_mode)
    if not return_indices:
        return unbatched(_maximum(x, w), input)
    return _result(input, _maxima(x, _tables(w)), True)


def max_pool1d(
    input: Any,  # noqa: A002
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum over windows of sequences: `max_pool2d` in one dimension.  (N, C, L) or (C, L) -> (.., C, OL)

    Raises ValueError for other dimensions, a window larger than the padded input, and padding above half of it.
    """
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Any,  # noqa: A002
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum over windows. (N, C, H, W) or (C, H, W) -> (.., C, OH, OW); stride defaults to kernel_size.

    OH = (H + 2 padding - dilation (kernel - 1) - 1) // stride + 1, rounded up with ceil_mode. return_indices: also
    where in its image each maximum is, counted in rows, as `max_unpool2d` takes it. The first of equal elements
    counts, but the last NaN. Raises ValueError where a window does not fit.
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: Any,  # noqa: A002
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum over windows of volumes: `max_pool2d` in three dimensions.  (N, C, D, H, W) -> (N, C, OD, OH, OW)

    Raises ValueError for other dimensions, a window larger than the padded input, and padding above half of it.
    """
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


# -- bins that cover the image -----------------------------------------------------------------------


def _bins(size: int, out: int) -> Array:
    """(out, K): the rows in each bin, [floor(i size / out), ceil((i + 1) size / out)); short ones repeat the last."""
    i = np.arange(out)[:, None]
    lo, hi = i * size // max(out, 1), -(-(i + 1) * size // max(out, 1))
    return np.minimum(lo + np.arange(max((hi - lo).max(initial=1), 1)), hi - 1)


def _adaptive_max_pool(dims: int, input: Any, output_size: Any, return_indices: bool) -> Any:  # noqa: A002
    name = f"adaptive_max_pool{dims}d"
    only_floats(name, input)
    x = batched(name, input, dims)
    tables = [_bins(n, o) for n, o in zip(x.shape[2:], adaptive_size(output_size, x.shape[2:]), strict=True)]
    return _result(input, _maxima(x, tables), return_indices)


def adaptive_max_pool1d(input: Any, output_size: Any, return_indices: bool = False) -> Any:  # noqa: A002
    """Maxima over output_size bins that cover a sequence: `adaptive_max_pool2d` in one dimension.

    (N, C, L) or (C, L) -> (.., C, output_size). Raises ValueError for other dimensions, and for bins below 0.
    """
    return _adaptive_max_pool(1, input, output_size, return_indices)


def adaptive_max_pool1d_with_indices(input: Any, output_size: Any) -> tuple[Any, Any]:  # noqa: A002
    """`adaptive_max_pool1d`, and where the maxima are: what PyTorch calls `torch.adaptive_max_pool1d`."""
    values, indices = _adaptive_max_pool(1, input, output_size, True)
    return values, indices


def adaptive_max_pool2d(input: Any, output_size: Any, return_indices: bool = False) -> Any:  # noqa: A002
    """Maxima over output_size bins that cover the image. (N, C, H, W) or (C, H, W) -> (.., C, *output_size)

    Bin i of o over n pixels is [floor(i n / o), ceil((i + 1) n / o)). None keeps a size. return_indices: also where in
    its image each maximum is, counted in rows. Raises ValueError for other dimensions, and for bins below 0.
    """
    return _adaptive_max_pool(2, input, output_size, return_indices)


def adaptive_max_pool3d(input: Any, output_size: Any, return_indices: bool = False) -> Any:  # noqa: A002
    """Maxima over output_size bins that cover the volume: `adaptive_max_pool2d` in three dimensions.

    (N, C, D, H, W) or (C, D, H, W) -> (.., C, *output_size). Raises ValueError for other dimensions, and for bins below
    0.
    """
    return _adaptive_max_pool(3, input, output_size, return_indices)


# -- regions drawn at random -------------------------------------------------------------------------


def _regions(size: int, out: int, kernel: int, u: Array) -> Array:
    """u: (N, C), draws from [0, 1) -> (N, C, out, kernel), the rows in each region of each image.

    With a = (size - kernel) / (out - 1), region i begins at floor((i + u) a) - floor(u a), the last at size - kernel
    (Graham, "Fractional Max-Pooling", arXiv:1412.6071, section 2).
    """
    step = u.dtype.type((size - kernel) / max(out - 1, 1))
    i = np.arange(out).astype(u.dtype)
    starts = ((i + u[..., None]) * step).astype(np.int64) - (u * step).astype(np.int64)[..., None]
    starts[..., -1:] = size - kernel
    return starts[..., None] + np.arange(kernel)


def _fractional_max_pool(
    dims: int,
    input: Any,  # noqa: A002
    kernel_size: Any,
    output_size: Any,
    output_ratio: Any,
    return_indices: bool,
    samples: Any,
) -> Any:
    name = f"fractional_max_pool{dims}d"
    only_floats(name, input)
    x = batched(name, input, dims)
    size, kernel = x.shape[2:], numbers("kernel_size", kernel_size, dims, 1)
    if (output_size is None) == (output_ratio is None):
        raise ValueError(f"{name} needs an output_size or an output_ratio, and not both")
    if output_size is None:
        ratios = output_ratio if isinstance(output_ratio, (list, tuple)) else (output_ratio,) * dims
        output_size = tuple(int(n * r) for n, r in zip(size, ratios, strict=True))
    out = numbers("output_size", output_size, dims, 1)
    if any(o + k - 1 > n for n, o, k in zip(size, out, kernel, strict=True)):
        raise ValueError(f"{name}: {out} regions of {kernel} do not fit into images of {size}; use less of either")
    if samples is None:
        u = next_draw().random((*x.shape[:2], dims), drawn_dtype(x)).astype(x.dtype)
    else:
        u = samples.array if isinstance(samples, Tensor) else np.asarray(samples)
    if u.ndim != 3 or u.shape[0] < x.shape[0] or u.shape[1:] != (x.shape[1], dims):
        raise ValueError(
            f"{name}: _random_samples has shape {u.shape}, images of {input.shape} want {(*x.shape[:2], dims)}"
        )
    if u.dtype != x.dtype:
        raise TypeError(f"{name}: _random_samples is {u.dtype}, the images are {x.dtype}; convert with .to(dtype)")
    draws = u[: x.shape[0]].transpose(2, 0, 1)
    order = (1, 0) if dims == 2 else (0, 1, 2)  # PyTorch's: in two dimensions the first draw is for W
    tables = [_regions(n, o, k, draws[d]) for n, o, k, d in zip(size, out, kernel, order, strict=True)]
    return _result(input, _maxima(x, tables), return_indices)


def fractional_max_pool2d(
    input: Any,  # noqa: A002
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Any = None,
) -> Any:
    """Maxima over regions of kernel_size at random, growing distances. (N, C, H, W) -> (N, C, *output_size)

    (Graham, arXiv:1412.6071); each image and channel draws its own regions. output_ratio: instead of output_size, in
    (0, 1), of the input's. _random_samples: the draws, (N, C, 2), from [0, 1). return_indices as in `max_pool2d`.
    Raises ValueError where the regions do not fit.
    """
    return _fractional_max_pool(2, input, kernel_size, output_size, output_ratio, return_indices, _random_samples)


def fractional_max_pool3d(
    input: Any,  # noqa: A002
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Any = None,
) -> Any:
    """`fractional_max_pool2d` of volumes.  (N, C, D, H, W) -> (N, C, *output_size); _random_samples: (N, C, 3)

    Raises ValueError for regions that do not fit.
    """
    return _fractional_max_pool(3, input, kernel_size, output_size, output_ratio, return_indices, _random_samples)


# -- back to where they were -------------------------------------------------------------------------


def _max_unpool(
    dims: int,
    input: Any,  # noqa: A002
    indices: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    output_size: Any,
) -> Any:
    name = f"max_unpool{dims}d"
    kernel = numbers("kernel_size", kernel_size, dims, 1)
    by_kernel = stride is None or isinstance(stride, (list, tuple)) and not stride
    stride = kernel if by_kernel else numbers("stride", stride, dims, 1)
    padding = numbers("padding", padding, dims, 0)
    x = batched(name, input, dims)
    if indices.shape != input.shape:
        raise ValueError(f"{name}: indices has shape {indices.shape}, input {input.shape}; they must be alike")
    usual = tuple((n - 1) * s + k - 2 * p for n, s, k, p in zip(x.shape[2:], stride, kernel, padding, strict=True))
    given = usual if output_size is None else tuple(output_size)
    if len(given) not in (dims, dims + 1, dims + 2):
        raise ValueError(f"{name}: output_size must have {dims} numbers, or those of N and C too; got {given}")
    size = given[-dims:]
    if any(not u - s < n < u + s for n, u, s in zip(size, usual, stride, strict=True)) or min(size) < 1:
        raise ValueError(
            f"{name}: output_size {size} is not possible for input {input.shape} with kernel {kernel}, stride {stride} "
            f"and padding {padding}; choose less than the stride away from {usual}"
        )
    shape = (*x.shape[:2], *size)
    where = checked_index(name, indices, prod(size)).reshape(x.shape) + _images(shape)
    return unbatched(place(np.zeros(shape, x.dtype), x, where), input)


def max_unpool1d(
    input: Any,  # noqa: A002
    indices: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> Any:
    """`max_pool1d`'s maxima where they were: `max_unpool2d` in one dimension.  (N, C, L) or (C, L) -> (.., C, OL)

    Raises as `max_unpool2d` does: ValueError, IndexError.
    """
    return _max_unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Any,  # noqa: A002
    indices: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> Any:
    """`max_pool2d`'s maxima where they were, zeros elsewhere. (N, C, H, W) or (C, H, W) -> (.., C, OH, OW)

    indices: where in its image each element of input goes, of input's shape; the last of several stays.
    OH = (H - 1) stride + kernel_size - 2 padding, or output_size, less than the stride away. Raises ValueError for
    shapes that do not fit, IndexError for indices outside the image.
    """
    return _max_unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Any,  # noqa: A002
    indices: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> Any:
    """`max_pool3d`'s maxima where they were: `max_unpool2d` in three dimensions.  (N, C, D, H, W) -> (N, C, OD, ..)

    Raises as `max_unpool2d` does: ValueError, IndexError.
    """
    return _max_unpool(3, input, indices, kernel_size, stride, padding, output_size)
