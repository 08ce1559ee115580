"""Sums, means, extrema and other reductions over dimensions."""

from __future__ import annotations

import builtins
import math
from typing import Any, NamedTuple

import numpy as np

from dtrain.autograd import op
from dtrain.backend import Array, xp_of
from dtrain.backend.halves import HALVES, halved
from dtrain.ops.dtypes import floating
from dtrain.ops.positions import along, take_flat

__all__ = [
    "all", "amax", "amin", "any", "argmax", "argmin", "logsumexp", "max", "mean", "min", "std", "sum", "sum_to_size",
    "var",
]  # fmt: skip

Dim = int | tuple[int, ...] | None


def _axes(dim: Any, ndim: int) -> tuple[int, ...]:
    """dim as a tuple of non-negative axes; None and () mean all."""
    if dim is None or dim == () or dim == []:
        return tuple(range(ndim))
    dims = (dim,) if isinstance(dim, (int, np.integer)) else tuple(dim)
    for d in dims:
        if not -builtins.max(ndim, 1) <= d < builtins.max(ndim, 1):
            raise IndexError(f"dim {d} is out of range for a tensor of {ndim} dimensions")
    return tuple(d % ndim for d in dims) if ndim else ()


def _restore(g: Array, x: Array, axes: tuple[int, ...], keepdim: bool) -> Array:
    """g, the gradient of a reduction of x over axes, broadcast to x's shape (read-only)."""
    xp = xp_of(x)
    if not keepdim:
        g = xp.expand_dims(g, axes)
    return xp.broadcast_to(g, x.shape)


def _total(x: Any, axes: tuple[int, ...], dtype: Any, keepdim: bool) -> Any:
    """The sum over axes in dtype. Two-byte floats are added up in float32, and rounded once."""
    if dtype not in HALVES:
        return x.sum(axes, dtype=dtype, keepdims=keepdim)
    return halved(x.sum(axes, dtype=np.float32, keepdims=keepdim), dtype)


@op
def sum(x: Any, dim: Dim = None, keepdim: bool = False, dtype: Any = None) -> Any:  # noqa: A001
    """The sum over dim (one, several or all dimensions). Bools and integers are summed as int64."""
    axes = _axes(dim, x.ndim)
    if dtype is None:
        dtype = x.dtype if x.dtype.kind == "f" else np.int64
    return _total(x, axes, dtype, keepdim), lambda g: _restore(g, x, axes, keepdim).astype(x.dtype, copy=False)


def sum_to_size(x: Any, *size: Any) -> Any:
    """x summed over the dimensions that broadcasting `size` to x's shape has repeated, in that size.

    Raises ValueError where `size` does not broadcast to x's shape.
    """
    sizes = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else tuple(size)
    lead = x.ndim - len(sizes)
    if lead < 0 or builtins.any(n not in (1, m) for n, m in zip(sizes, x.shape[lead:], strict=True)):
        raise ValueError(f"sum_to_size: size {sizes} does not broadcast to shape {x.shape}")
    repeated = tuple(lead + i for i, n in enumerate(sizes) if n != x.shape[lead + i])
    if not repeated and not lead:
        return x
    x = sum(x, repeated, True) if repeated else x
    return sum(x, tuple(range(lead))) if lead else x


@op
def mean(x: Any, dim: Dim = None, keepdim: bool = False, dtype: Any = None) -> Any:
    """The mean over dim; NaN over no elements. Raises TypeError for integers, as in PyTorch."""
    given = x.dtype
    if dtype is not None:
        x = x.astype(dtype, copy=False)
    if x.dtype.kind != "f":
        raise TypeError(f"mean needs a floating-point tensor, got {x.dtype}; convert with .float()")
    axes = _axes(dim, x.ndim)
    n = math.prod(x.shape[a] for a in axes)
    if not n:
        return x.sum(axes, keepdims=keepdim) * np.nan, lambda g: _restore(g, x, axes, keepdim)
    value = x.sum(axes, keepdims=keepdim) / x.dtype.type(n)
    return value, lambda g: _restore((g / g.dtype.type(n)).astype(given, copy=False), x, axes, keepdim)


def _variance(x: Any, dim: Dim, correction: float, keepdim: bool) -> tuple[Any, Any]:
    axes = _axes(dim, x.ndim)
    n = math.prod(x.shape[a] for a in axes) - correction
    centred = x - x.mean(axes, keepdims=True)
    scale = x.dtype.type(1 / n if n > 0 else np.nan)
    value = (centred * centred).sum(axes, keepdims=keepdim) * scale
    return value, lambda g: _restore(g, x, axes, keepdim) * centred * (2 * scale)


@op
def _var(x: Any, dim: Dim, correction: float, keepdim: bool) -> Any:
    return _variance(x, dim, correction, keepdim)


def var(
    x: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Any:
    """sum((x - mean)^2) / (n - correction) over dim; correction is 1, or 0 with unbiased=False, unless given.

    As in PyTorch a bool in the place of dim is `unbiased`, over all elements.
    """
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    return _var(x, dim, int(unbiased) if correction is None else correction, keepdim)


@op
def _std(x: Any, dim: Dim, correction: float, keepdim: bool) -> Any:
    value, pullback = _variance(x, dim, correction, keepdim)
    root = xp_of(x).sqrt(value)
    return root, lambda g: pullback(g / (2 * root))


def std(
    x: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Any:
    """The square root of `var`, with its arguments."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    return _std(x, dim, int(unbiased) if correction is None else correction, keepdim)


def _extremum(name: str, x: Any, dim: Dim, keepdim: bool) -> Any:
    """The extremum over dim; equal extremes share the gradient evenly, as in PyTorch's amax."""
    axes = _axes(dim, x.ndim)
    value = getattr(x, name)(axes, keepdims=True)

    def pullback(g: Any) -> Any:
        winners = x == value
        share = winners / winners.sum(axes, keepdims=True)
        return (_restore(g, x, axes, keepdim) * share).astype(x.dtype, copy=False)

    return (value if keepdim else value.squeeze(axes)), pullback


@op
def amax(x: Any, dim: Dim = (), keepdim: bool = False) -> Any:
    """The maximum over dim. Equal maxima share the gradient evenly."""
    return _extremum("max", x, dim, keepdim)


@op
def amin(x: Any, dim: Dim = (), keepdim: bool = False) -> Any:
    """The minimum over dim. Equal minima share the gradient evenly."""
    return _extremum("min", x, dim, keepdim)


@op
def _select(x: Any, index: Any, dim: int, keepdim: bool) -> Any:
    """The elements of x at `index` (keeping dim) along dim."""
    xp = xp_of(x)
    value = xp.take_along_axis(x, index, dim)

    def pullback(g: Any) -> Any:
        full = xp.zeros_like(x)
        xp.put_along_axis(full, index, g if keepdim else xp.expand_dims(g, dim), dim)
        return full

    return (value if keepdim else value.squeeze(dim)), pullback


@_select.formula
def _(x: Any, index: Any, dim: int, keepdim: bool) -> Any:
    from dtrain.ops.shape import squeeze

    values = take_flat(x, along(index, dim % x.ndim, x.shape))
    return values if keepdim else squeeze(values, dim)


class Extremum(NamedTuple):
    """What `max` and `min` along a dimension return."""

    values: Any
    indices: Any


def _extremum_with_index(name: str, whole: Any, x: Any, dim: int | None, keepdim: bool) -> Any:
    from dtrain.autograd import Tensor

    if dim is None:
        return whole(x)
    if not x.ndim:
        return Extremum(whole(x, dim), argmax(x))
    index = getattr(x.array, "arg" + name)(dim, keepdims=True)
    return Extremum(_select(x, index, dim, keepdim), Tensor(index if keepdim else index.squeeze(dim)))


def max(x: Any, dim: Any = None, keepdim: bool = False) -> Any:  # noqa: A001
    """The maximum of all elements; with dim, (values, indices) along it; with a tensor, `maximum`."""
    from dtrain.ops.arithmetic import maximum

    if dim is not None and not isinstance(dim, int):
        return maximum(x, dim)
    return _extremum_with_index("max", amax, x, dim, keepdim)


def min(x: Any, dim: Any = None, keepdim: bool = False) -> Any:  # noqa: A001
    """The minimum of all elements; with dim, (values, indices) along it; with a tensor, `minimum`."""
    from dtrain.ops.arithmetic import minimum

    if dim is not None and not isinstance(dim, int):
        return minimum(x, dim)
    return _extremum_with_index("min", amin, x, dim, keepdim)


@op
def argmax(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The index of the first maximum, over all elements or along dim."""
    return xp_of(x).asarray(x.argmax(dim, keepdims=keepdim)), None


@op
def argmin(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The index of the first minimum, over all elements or along dim."""
    return xp_of(x).asarray(x.argmin(dim, keepdims=keepdim)), None


@op
def all(x: Any, dim: Dim = None, keepdim: bool = False) -> Any:  # noqa: A001
    """Whether all elements over dim are true."""
    return xp_of(x).asarray(x.all(_axes(dim, x.ndim), keepdims=keepdim)), None


@op
def any(x: Any, dim: Dim = None, keepdim: bool = False) -> Any:  # noqa: A001
    """Whether any element over dim is true."""
    return xp_of(x).asarray(x.any(_axes(dim, x.ndim), keepdims=keepdim)), None


@op
def logsumexp(x: Any, dim: Dim, keepdim: bool = False) -> Any:
    """log(sum(exp(x))) over dim, without overflow."""
    x = floating(x)
    xp, axes = xp_of(x), _axes(dim, x.ndim)
    top = x.max(axes, keepdims=True)
    top = xp.where(xp.isfinite(top), top, 0).astype(x.dtype)
    e = xp.exp(x - top)
    total = e.sum(axes, keepdims=True)
    value = xp.log(total) + top
    return (value if keepdim else value.squeeze(axes)), lambda g: _restore(g, x, axes, keepdim) * (e / total)
