"""Running sums, products and extrema along a dimension; differences of neighbours, integrals of samples."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dtrain.autograd import Tensor, op
from dtrain.backend import xp_of
from dtrain.ops import comparison
from dtrain.ops.dtypes import default_dtype, dimension, plain, quiet
from dtrain.ops.indexing import narrow
from dtrain.ops.positions import along, take_flat
from dtrain.ops.shape import cat

__all__ = [
    "Running", "cummax", "cummin", "cumprod", "cumsum", "cumulative_trapezoid", "diff", "flip_axis", "gradient",
    "logcumsumexp",
    "trapezoid", "trapz",
]  # fmt: skip


@op(halves=True)
def flip_axis(x: Any, axis: int) -> Any:
    """x in reverse order along an axis."""
    return xp_of(plain(x)).flip(plain(x), axis), lambda g: flip_axis.raw(g, axis)


def _behind(g: Any, axis: int) -> Any:
    """The sums of each element and all that come after it."""
    return flip_axis.raw(_cumsum.raw(flip_axis.raw(g, axis), axis), axis)


@op
def _cumsum(x: Any, axis: int) -> Any:
    return plain(x).cumsum(axis, dtype=x.dtype), lambda g: _behind(g, axis)


def _prepared(input: Any, dim: int, dtype: Any) -> tuple[Any, int]:
    """input in dtype (integers and bools in int64 by default), and the axis; -1 for what has no dimension."""
    axis = dimension(dim, input.ndim)
    if dtype is None and not input.is_floating_point():
        dtype = np.int64
    return (input if dtype is None else input.to(np.dtype(dtype))), axis if input.ndim else -1


def cumsum(input: Any, dim: int, *, dtype: Any = None) -> Any:
    """The sums of each element along dim and those before it. Integers and bools are summed as int64."""
    x, axis = _prepared(input, dim, dtype)
    return x if axis < 0 else _cumsum(x, axis)


def cumprod(input: Any, dim: int, *, dtype: Any = None) -> Any:
    """The products of each element along dim and those before it. Integers and bools are multiplied as int64."""
    x, axis = _prepared(input, dim, dtype)
    return x if axis < 0 else _cumprod(x, axis)


@op
@quiet
def _cumprod(x: Any, axis: int) -> Any:
    a = plain(x)
    y = a.cumprod(axis, dtype=a.dtype)

    def pullback(g: Any) -> Any:
        if a.all():
            return _behind(g * _cumprod.raw(x, axis), axis) / x
        if hasattr(x, "tensor") or hasattr(g, "tensor"):
            return _cumprod_grad(g, x, axis)
        # Up to the first zero as without one; to that zero go the products without it; to what follows nothing.
        zeros = (a == 0).cumsum(axis)
        first = (zeros == 1) & (a == 0)
        before = _behind(g * y, axis) / np.where(a == 0, 1, a)
        at = _behind(g * np.where(first, 1, a).cumprod(axis), axis)
        # `at` counts products from before the zero too, for elements before it only: those behind the zero are right.
        return np.where(zeros == 0, before, np.where(first, at, 0)).astype(a.dtype, copy=False)

    return y, pullback


def _cumprod_grad(g: Any, x: Any, axis: int) -> Any:
    """The gradient of cumprod of what may have zeros, term by term: n times the memory, differentiable again."""
    n = x.shape[axis]
    last = lambda v: xp_of(v).moveaxis(v, axis, -1)  # noqa: E731
    line = xp_of(x).expand_dims(last(x), -2)  # (..., 1, n): factor i, for the derivative by factor k
    products = _cumprod.raw(xp_of(x).where(np.eye(n, dtype=bool), 1, line), x.ndim)
    terms = products * np.tri(n, dtype=bool).T * xp_of(g).expand_dims(last(g), -2)
    total = terms.sum(-1)
    return xp_of(total).moveaxis(total, -1, axis)


@op
@quiet
def _logcumsumexp(x: Any, axis: int) -> Any:
    a = plain(x)
    y = np.logaddexp.accumulate(a, axis) if a.size else a.copy()

    def pullback(g: Any) -> Any:
        if hasattr(x, "tensor") or hasattr(g, "tensor"):
            return _logcumsumexp_grad(g, x, axis)
        reverse = lambda v: np.flip(np.logaddexp.accumulate(np.flip(v, axis), axis), axis)  # noqa: E731
        if not a.size:
            return g
        up, down = (np.exp(reverse(np.log(np.maximum(s * g, 0)) - y) + a) for s in (1, -1))
        return (up - down).astype(a.dtype, copy=False)

    return y, pullback


def _logcumsumexp_grad(g: Any, x: Any, axis: int) -> Any:
    """Term by term: n times the memory, differentiable again."""
    n = x.shape[axis]
    last = lambda v: xp_of(v).moveaxis(v, axis, -1)  # noqa: E731
    y = _logcumsumexp.raw(x, axis)
    gap = xp_of(x, y).where(
        np.tri(n, dtype=bool).T, xp_of(x).expand_dims(last(x), -1) - xp_of(y).expand_dims(last(y), -2), -np.inf
    )
    total = (xp_of(gap).exp(gap) * xp_of(g).expand_dims(last(g), -2)).sum(-1)
    return xp_of(total).moveaxis(total, -1, axis)


def logcumsumexp(input: Any, dim: int) -> Any:
    """log of the running sums of exp(x) along dim, without overflow."""
    axis = dimension(dim, input.ndim)
    if not input.is_floating_point():
        input = input.to(default_dtype)
    return _logcumsumexp(input, axis) if input.ndim else input.clone()


class Running(NamedTuple):
    """Running extrema, and where along the dimension they were."""

    values: Any
    indices: Any


def _running(input: Any, dim: int, choose: Any) -> Running:
    axis = dimension(dim, input.ndim)
    x = input.array
    if not input.ndim:
        return Running(input.clone(), Tensor(np.zeros((), np.int64)))
    extreme = choose.accumulate(x, axis) if x.size else x
    at = (x == extreme) | (x != x)
    places = np.arange(x.shape[axis]).reshape((-1,) + (1,) * (x.ndim - 1 - axis))
    index = np.maximum.accumulate(np.where(at, places, 0), axis) if x.size else np.zeros(x.shape, np.int64)
    return Running(take_flat(input, along(index, axis, x.shape)), Tensor(index))


def cummax(input: Any, dim: int) -> Running:
    """(values, indices) of the largest element so far along dim, the last of equal ones; NaN from the first NaN on."""
    return _running(input, dim, np.maximum)


def cummin(input: Any, dim: int) -> Running:
    """(values, indices) of the smallest element so far along dim, the last of equal ones; NaN from the first NaN on."""
    return _running(input, dim, np.minimum)


# -- neighbours --------------------------------------------------------------------------------------


def diff(input: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """The n-th differences of neighbours along dim, of input with what is to be prepended and appended."""
    if not input.ndim:
        raise ValueError("diff needs at least one dimension, got a tensor of none")
    if n < 0:
        raise ValueError(f"diff: n must not be negative, got {n}")
    axis = dimension(dim, input.ndim)
    if not n:
        return input.clone()
    parts = [p for p in (prepend, input, append) if p is not None]
    x = cat(parts, axis) if len(parts) > 1 else input
    for _ in range(n):
        size = x.shape[axis]
        if size < 1:
            break
        above, below = narrow(x, axis, 1, size - 1), narrow(x, axis, 0, size - 1)
        x = comparison.logical_xor(above, below) if x.dtype == np.bool_ else above - below
    return x


def gradient(input: Any, *, spacing: Any = 1, dim: Any = None, edge_order: int = 1) -> tuple[Any, ...]:
    """The slopes of samples along each of dim (all of them unless given), by differences of second order.

    spacing: the distance between samples, one for each dim, or a vector of the samples' places for each. At the ends
    differences of first order, or second with edge_order=2. Between places h before and k behind, distances apart:
    (h^2 f(x + k) + (k^2 - h^2) f(x) - k^2 f(x - h)) / (h k (h + k)). Raises ValueError for too few samples.
    """
    dims = range(input.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    axes = [dimension(d, input.ndim) for d in dims]
    if len({*axes}) < len(axes):
        raise ValueError(f"gradient: dim {dim} names a dimension of shape {input.shape} twice")
    widths = list(spacing) if isinstance(spacing, (list, tuple)) else [1 if spacing is None else spacing] * len(axes)
    if edge_order not in (1, 2) or len(widths) != len(axes):
        raise ValueError(f"gradient: edge_order {edge_order} must be 1 or 2, and spacing {spacing} fit dim {dim}")
    return tuple(_slopes(input, width, axis, edge_order) for width, axis in zip(widths, axes, strict=True))


def _slopes(y: Any, spacing: Any, axis: int, edge_order: int) -> Any:
    n = y.shape[axis] if y.ndim else 0
    placed = isinstance(spacing, Tensor) and spacing.ndim == 1
    if n <= edge_order or placed and spacing.shape != (n,):
        raise ValueError(
            f"gradient: dim {axis} of shape {y.shape} must have more than {edge_order} samples, and spacing "
            f"{getattr(spacing, 'shape', spacing)} as many places"
        )
    f = y if y.is_floating_point() else y.to(default_dtype)
    at = lambda start, size: narrow(f, axis, start, size)  # noqa: E731
    gaps = diff(spacing) if placed else Tensor(np.ones(n - 1, f.dtype)) * spacing
    gaps = gaps.reshape((-1,) + (1,) * (y.ndim - 1 - axis))
    gap = lambda start, size: narrow(gaps, 0, start, size)  # noqa: E731
    h, k = gap(0, n - 2), gap(1, n - 2)
    inner = (h * h * at(2, n - 2) + (k * k - h * h) * at(1, n - 2) - k * k * at(0, n - 2)) / (h * k * (h + k))
    first, last = gap(0, 1), gap(n - 2, 1)
    start, end = (at(1, 1) - at(0, 1)) / first, (at(n - 1, 1) - at(n - 2, 1)) / last
    if edge_order == 2:  # the slope of the parabola through the three samples at the end
        second, before = gap(1, 1), gap(n - 3, 1)
        start = start + (start - (at(2, 1) - at(1, 1)) / second) * first / (first + second)
        end = end + (end - (at(n - 2, 1) - at(n - 3, 1)) / before) * last / (last + before)
    return cat([start, inner, end], axis)


def _areas(y: Any, x: Any, dx: Any, dim: int) -> Any:
    """The areas of the trapezia between neighbours along dim."""
    axis = dimension(dim, y.ndim)
    n = y.shape[axis]
    both = narrow(y, axis, 1, n - 1) + narrow(y, axis, 0, n - 1) if n else y
    if x is None:
        return both * (dx * 0.5 if not isinstance(dx, Tensor) else dx / 2), axis - y.ndim
    if x.ndim == 1:
        if x.shape[0] != n:
            raise ValueError(f"trapezoid: x has {x.shape[0]} elements, dim {dim} of y {y.shape} has {n}")
        width = diff(x).reshape((-1,) + (1,) * (y.ndim - 1 - axis))
    else:
        width = diff(x, dim=axis - y.ndim)
    return both * width / 2.0, axis - y.ndim


def trapezoid(y: Any, x: Any = None, *, dx: Any = 1, dim: int = -1) -> Any:
    """The integral of y along dim by the trapezoidal rule, at the places x, or dx apart."""
    if y.ndim and not y.shape[dim] and x is None:
        return y.sum(dim) * 1.0
    area, axis = _areas(y, x, dx, dim)
    return area.sum(axis)


def cumulative_trapezoid(y: Any, x: Any = None, *, dx: Any = 1, dim: int = -1) -> Any:
    """The running integrals of y along dim; see `trapezoid`."""
    area, axis = _areas(y, x, dx, dim)
    return cumsum(area, axis)


trapz = trapezoid
