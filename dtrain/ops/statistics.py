"""Products, norms, distances, and statistics that are made of other reductions."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from dtrain.autograd import Tensor, constant, op
from dtrain.backend import xp_of
from dtrain.backend.halves import HALVES
from dtrain.ops import arithmetic, reduction
from dtrain.ops.dtypes import dimension, in_float32, quiet
from dtrain.ops.rearranging import movedim
from dtrain.ops.shape import cat, reshape, squeeze, unsqueeze

__all__ = [
    "AMinMax", "aminmax", "corrcoef", "cov", "dist", "matrix_norm", "nanmean", "nansum", "norm",
    "prod", "renorm", "std_mean", "var_mean", "vector_norm",
]  # fmt: skip


class AMinMax(NamedTuple):
    """What `aminmax` returns."""

    min: Any
    max: Any


def aminmax(input: Any, *, dim: int | None = None, keepdim: bool = False) -> AMinMax:
    """(minimum, maximum) over dim, or of all elements. Raises ValueError for no elements."""
    over = () if dim is None else dimension(dim, input.ndim)
    n = input.array.size if dim is None else input.shape[over] if input.ndim else 1
    if not n:
        raise ValueError(f"aminmax: there is no element over dim {dim} of shape {input.shape}")
    keep = keepdim and (dim is not None or input.ndim > 0)
    return AMinMax(reduction.amin(input, over, keep), reduction.amax(input, over, keep))


# -- products ----------------------------------------------------------------------------------------


@op
def _prod(x: Any, axis: int) -> Any:
    xp = xp_of(x)
    y = x.prod(axis)

    def pullback(g: Any) -> Any:
        """g times the product of all other elements: those before times those behind."""
        turned = xp.moveaxis(x, axis, -1)
        one = xp.ones_like(turned[..., :1])
        before = xp.concatenate([one, turned[..., :-1]], -1).cumprod(-1)
        behind = xp.flip(xp.concatenate([one, xp.flip(turned, -1)[..., :-1]], -1).cumprod(-1), -1)
        return xp.expand_dims(g, axis) * xp.moveaxis(before * behind, -1, axis)

    return y, pullback


@_prod.formula
def _(x: Any, axis: int) -> Any:
    x = movedim(x, axis, 0)
    while len(x) > 1:
        half = len(x) // 2
        pairs = arithmetic.mul(x[:half], x[half : 2 * half])
        x = cat([pairs, x[2 * half :]], 0) if len(x) % 2 else pairs
    return x[0] if len(x) else arithmetic.add(reduction.sum(x, 0), 1)


@in_float32
def prod(input: Any, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The product over dim, or of all elements. Bools and integers are multiplied as int64, unless dtype says."""
    if dtype is not None and np.dtype(dtype) == np.bool_:
        return reduction.all(input.to(np.bool_), dim, keepdim)
    x = input.to(dtype if dtype is not None else input.dtype if input.is_floating_point() else np.int64)
    if dim is None:
        return _prod(reshape(x, -1), 0)
    axis = dimension(dim, x.ndim)
    y = _prod(x if x.ndim else reshape(x, 1), axis)
    return unsqueeze(y, axis) if keepdim and x.ndim else y


# -- norms -------------------------------------------------------------------------------------------


@op
@quiet
def _length(x: Any, axes: tuple[int, ...]) -> Any:
    """sqrt(sum(x^2)) over axes, kept as dimensions of size 1; its gradient is zero where it is zero."""
    xp = xp_of(x)
    y = xp.sqrt((x * x).sum(axes, keepdims=True))
    return y, lambda g: g * (x / xp.where(y == 0, xp.ones_like(y), y))


def _power_norm(x: Any, p: float, axes: tuple[int, ...]) -> Any:
    size = arithmetic.abs(x)
    if p == 0:
        return reduction.sum((x != 0).to(x.dtype), axes, True)
    if p == 1:
        return reduction.sum(size, axes, True)
    if math.isinf(p):
        return (reduction.amax if p > 0 else reduction.amin)(size, axes, True)
    total = reduction.sum(arithmetic.pow(size, p), axes, True)
    if p < 1:
        return arithmetic.pow(total, 1 / p)
    zero = total == 0
    return arithmetic.where(zero, total, arithmetic.pow(arithmetic.where(zero, 1.0, total), 1 / p))


def vector_norm(x: Any, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """(sum |x|^ord)^(1/ord) over dim (all elements as one vector unless given); inf: the largest |x|, 0: the count."""
    _check_floating("vector_norm", x, dtype)
    x = x if dtype is None else x.to(dtype)
    if x.dtype in HALVES:  # the powers would overflow
        return vector_norm(x.to(np.float32), ord, dim, keepdim).to(x.dtype)
    if not x.ndim:
        found = _power_norm(reshape(x, 1), float(ord), (0,)) if ord != 2 else _length(reshape(x, 1), (0,))
        return squeeze(found, 0)
    axes = tuple(range(x.ndim)) if dim is None else tuple(dimension(d, x.ndim) for d in np.atleast_1d(dim).tolist())
    axes = axes or tuple(range(x.ndim))
    if not math.prod(x.shape[a] for a in axes) and (ord < 0 or math.isinf(ord)):
        raise ValueError(f"the norm of order {ord} is not defined over no elements (dim {dim} of shape {x.shape})")
    y = _length(x, axes) if ord == 2 else _power_norm(x, float(ord), axes)
    return y if keepdim else squeeze(y, axes)


def _check_floating(name: str, x: Any, dtype: Any) -> None:
    if not x.is_floating_point():
        raise TypeError(f"{name} needs a floating-point tensor, got {x.dtype}; convert with .float()")
    if dtype is not None and np.dtype(dtype).kind != "f":
        raise TypeError(f"{name}: dtype must be floating-point, got {dtype}")


def matrix_norm(A: Any, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Norms of the matrices of dim: "fro", "nuc", inf, -inf (of rows), 1, -1 (of columns), 2, -2 (singular values)."""
    from dtrain.ops.decompositions import svdvals

    _check_floating("matrix_norm", A, dtype)
    if A.ndim < 2 or len(tuple(dim)) != 2:
        raise ValueError(f"matrix_norm needs matrices and two dims, got shape {A.shape} and dim {dim}")
    x = A if dtype is None else A.to(dtype)
    a, b = (dimension(d, x.ndim) for d in dim)
    if a == b:
        raise ValueError(f"matrix_norm: dim {dim} names one dimension twice")
    if ord == "fro":
        return vector_norm(x, 2, (a, b), keepdim)
    if ord in (1, -1, math.inf, -math.inf):
        first, second = (a, b) if abs(ord) == 1 else (b, a)
        sums = reduction.sum(arithmetic.abs(x), first, True)
        y = (reduction.amax if ord > 0 else reduction.amin)(sums, second, True)
    elif ord in ("nuc", 2, -2):
        values = svdvals(movedim(movedim(x, a, -1), b if b < a else b - 1, -1))
        y = {"nuc": reduction.sum, 2: reduction.amax, -2: reduction.amin}[ord](values, -1)
        for axis in sorted((a, b)):
            y = unsqueeze(y, axis)
    else:
        raise ValueError(f"matrix_norm: ord must be 'fro', 'nuc', inf, -inf, 1, -1, 2 or -2, got {ord!r}")
    return y if keepdim else squeeze(y, (a, b))


def norm(input: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    """`vector_norm` of order p over dim; "fro" is order 2, "nuc" the matrices' nuclear norm."""
    if p == "nuc":
        return matrix_norm(input, "nuc", (-2, -1) if dim is None else dim, keepdim, dtype=dtype)
    order = 2 if p in ("fro", None) else p
    if isinstance(order, str):
        raise ValueError(f"norm: p must be a number, 'fro' or 'nuc', got {p!r}")
    return vector_norm(input, order, dim, keepdim, dtype=dtype)


def dist(input: Any, other: Any, p: float = 2) -> Any:
    """The norm of order p of input - other."""
    return vector_norm(arithmetic.sub(input, other), p)


@in_float32
def renorm(input: Any, p: float, dim: int, maxnorm: float) -> Any:
    """Each slice along dim scaled down to a norm of order p of maxnorm where it is larger."""
    axis = dimension(dim, input.ndim)
    if p <= 0 or maxnorm < 0 or input.ndim < 2:
        raise ValueError(f"renorm needs p > 0, maxnorm >= 0 and two dimensions, got {p}, {maxnorm}, {input.shape}")
    length = vector_norm(input, p, [d for d in range(input.ndim) if d != axis], True)
    factor = arithmetic.where(length > maxnorm, maxnorm / (length + 1e-7), 1.0)
    return arithmetic.mul(input, factor)


# -- statistics --------------------------------------------------------------------------------------


def var_mean(
    input: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> tuple[Any, Any]:
    """(var, mean) over dim; arguments as for `var`."""
    over = None if isinstance(dim, bool) else dim
    return reduction.var(input, dim, unbiased, keepdim, correction=correction), reduction.mean(input, over, keepdim)


def std_mean(
    input: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> tuple[Any, Any]:
    """(std, mean) over dim; arguments as for `std`."""
    over = None if isinstance(dim, bool) else dim
    return reduction.std(input, dim, unbiased, keepdim, correction=correction), reduction.mean(input, over, keepdim)


def nansum(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The sum over dim of what is not NaN."""
    missing = Tensor(np.isnan(input.array))
    return reduction.sum(arithmetic.where(missing, constant(np.zeros((), input.dtype)), input), dim, keepdim, dtype)


def nanmean(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The mean over dim of what is not NaN."""
    if not input.is_floating_point():
        raise TypeError(f"nanmean needs a floating-point tensor, got {input.dtype}")
    count = reduction.sum(Tensor(~np.isnan(input.array)), dim, keepdim)
    return arithmetic.div(nansum(input, dim, keepdim, dtype=dtype), count)


def cov(input: Any, *, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Any:
    """The covariances of variables, one a row, over observations, one a column, with whole (f) and other weights."""
    if input.ndim > 2:
        raise ValueError(f"cov needs a vector or a matrix, got shape {input.shape}")
    x = input if input.is_floating_point() else input.to(np.float32)
    x = reshape(x, 1, -1) if x.ndim < 2 else x
    n = x.shape[1]
    for name, weights, kinds in (("fweights", fweights, "iu"), ("aweights", aweights, "f")):
        if weights is None:
            continue
        if weights.dtype.kind not in kinds:
            wanted = "integers" if "i" in kinds else "floats"
            raise TypeError(f"cov: {name} must be {wanted}, got {weights.dtype} of shape {weights.shape}")
        if weights.ndim != 1 or weights.shape[0] != n or (weights.array < 0).any():
            raise ValueError(
                f"cov: {name} must be {n} numbers >= 0 for an input of shape {input.shape}, got shape {weights.shape}"
            )
    w = fweights
    if aweights is not None:
        w = aweights if w is None else arithmetic.mul(w, aweights)
    total = n if w is None else reduction.sum(w)
    weighted = x if w is None else arithmetic.mul(x, w)
    centred = arithmetic.sub(x, arithmetic.div(reduction.sum(weighted, 1, True), total))
    left = centred if w is None else arithmetic.mul(centred, w)
    if aweights is None or not correction:
        freedom = total - correction
    else:
        freedom = total - correction * (reduction.sum(arithmetic.mul(w, aweights)) / total)
    freedom = max(freedom, 0) if isinstance(freedom, (int, float)) else freedom
    with np.errstate(all="ignore"):
        found = arithmetic.div(left @ centred.T, freedom)
    return reshape(found, ()) if x.shape[0] == 1 else found


def corrcoef(input: Any) -> Any:
    """The correlation coefficients of variables, one a row."""
    c = cov(input)
    if not c.ndim:
        return arithmetic.div(c, c)
    from dtrain.ops.diagonals import diagonal

    deviation = arithmetic.sqrt(diagonal(c))
    found = arithmetic.div(arithmetic.div(c, unsqueeze(deviation, 1)), deviation)
    return arithmetic.clamp(found, -1, 1)
