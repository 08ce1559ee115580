"""Elementwise arithmetic with broadcasting, comparisons, and functions of one number."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.autograd import op
from dtrain.backend import xp_of
from dtrain.ops.dtypes import floating, operands, result_dtype, unbroadcast

__all__ = [
    "abs", "add", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "clamp", "cos", "div", "eq", "exp", "ge",
    "gt", "isfinite", "isnan", "le", "log",
    "log1p", "logical_and", "logical_not", "logical_or", "lt", "maximum", "minimum", "mul", "ne",
    "neg", "pow", "sign", "sin", "sqrt", "square", "sub", "where",
]  # fmt: skip


@op
def add(x: Any, y: Any) -> Any:
    """x + y with broadcasting."""
    a, b = operands(x, y)
    return a + b, (lambda g: unbroadcast(g, x), lambda g: unbroadcast(g, y))


@op
def sub(x: Any, y: Any) -> Any:
    """x - y with broadcasting."""
    a, b = operands(x, y)
    return a - b, (lambda g: unbroadcast(g, x), lambda g: unbroadcast(-g, y))


@op
def mul(x: Any, y: Any) -> Any:
    """x * y with broadcasting."""
    a, b = operands(x, y)
    return a * b, (lambda g: unbroadcast(g * b, x), lambda g: unbroadcast(g * a, y))


@op
def div(x: Any, y: Any) -> Any:
    """x / y with broadcasting; integers give the default floating-point dtype."""
    a, b = operands(x, y)
    if result_dtype(a, b).kind != "f":
        a, b = (floating(v if hasattr(v, "dtype") else xp_of(v).asarray(v)) for v in (a, b))
    z = _ratio(a, b)
    return z, (lambda g: unbroadcast(_ratio(g, b), x), lambda g: unbroadcast(_ratio(-g * z, b), y))


def _ratio(x: Any, y: Any) -> Any:
    """x / y; what infinity or NaN comes of it is a value like others, and no warning."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return x / y


@op
def pow(x: Any, y: Any) -> Any:  # noqa: A001
    """x ** y with broadcasting. The gradient of y is 0 where x = 0 and y >= 0, as in PyTorch."""
    a, b = operands(x, y)
    xp = xp_of(a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = a**b

    @np.errstate(divide="ignore", invalid="ignore")
    def pullback_x(g: Any) -> Any:
        if isinstance(b, (int, float)):
            return g * 0 if b == 0 else g * (b * a ** (b - 1))
        return unbroadcast(g * xp.where(b == 0, 0, b * a ** xp.where(b == 0, 1, b - 1)), x)

    @np.errstate(divide="ignore", invalid="ignore")
    def pullback_y(g: Any) -> Any:
        zero = (xp.asarray(a) == 0) & (b >= 0)
        return unbroadcast(g * xp.where(zero, 0, z * xp.log(xp.where(zero, 1, a))).astype(z.dtype), y)

    return z, (pullback_x, pullback_y)


@op
def neg(x: Any) -> Any:
    """-x"""
    return -x, lambda g: -g


@op
def abs(x: Any) -> Any:  # noqa: A001
    """|x|; the gradient at 0 is 0."""
    xp = xp_of(x)
    return xp.abs(x), lambda g: g * xp.sign(x)


@op
def square(x: Any) -> Any:
    """x * x"""
    return x * x, lambda g: 2 * g * x


@op
def exp(x: Any) -> Any:
    """exp(x), elementwise."""
    y = xp_of(x).exp(floating(x))
    return y, lambda g: g * y


@op
def log(x: Any) -> Any:
    """The natural logarithm, elementwise."""
    x = floating(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        y = xp_of(x).log(x)
    return y, lambda g: _ratio(g, x)


@op
def log1p(x: Any) -> Any:
    """log(1 + x), accurate for small x."""
    x = floating(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        y = xp_of(x).log1p(x)
    return y, lambda g: _ratio(g, 1 + x)


@op
def sqrt(x: Any) -> Any:
    """The square root, elementwise."""
    with np.errstate(invalid="ignore"):
        y = xp_of(x).sqrt(floating(x))
    return y, lambda g: _ratio(g, 2 * y)


@op
def sin(x: Any) -> Any:
    """sin(x), x in radians."""
    xp, x = xp_of(x), floating(x)
    return xp.sin(x), lambda g: g * xp.cos(x)


@op
def cos(x: Any) -> Any:
    """cos(x), x in radians."""
    xp, x = xp_of(x), floating(x)
    return xp.cos(x), lambda g: -g * xp.sin(x)


@op
def sign(x: Any) -> Any:
    """-1, 0 or 1; the gradient is 0."""
    return xp_of(x).sign(x), lambda g: g * 0


def _choose(x: Any, y: Any, wins: str, choose: str) -> Any:
    """One of x and y, elementwise; where they are equal each gets half of the gradient, as in PyTorch."""
    a, b = operands(x, y)
    z = getattr(xp_of(a, b), choose)(a, b)
    half = (a == b) * 0.5

    def share(won: Any) -> Any:
        return (won * 1.0 * (half == 0) + half).astype(z.dtype)

    return z, (
        lambda g: unbroadcast(g * share(a > b if wins == "greater" else a < b), x),
        lambda g: unbroadcast(g * share(b > a if wins == "greater" else b < a), y),
    )


@op
def maximum(x: Any, y: Any) -> Any:
    """The larger of x and y, elementwise, with broadcasting."""
    return _choose(x, y, "greater", "maximum")


@op
def minimum(x: Any, y: Any) -> Any:
    """The smaller of x and y, elementwise, with broadcasting."""
    return _choose(x, y, "less", "minimum")


@op
def clamp(x: Any, min: float | None = None, max: float | None = None) -> Any:  # noqa: A002
    """x limited to [min, max]; the gradient is 0 outside. Raises ValueError where neither is given."""
    if min is None and max is None:
        raise ValueError("clamp needs min, max or both")
    inside = ~((x < (-np.inf if min is None else min)) | (x > (np.inf if max is None else max)))
    return xp_of(x).clip(x, min, max), lambda g: g * inside


@op
def where(condition: Any, x: Any, y: Any) -> Any:
    """x where condition is true, else y; all three broadcast."""
    if getattr(condition, "dtype", None) != np.bool_:
        raise TypeError(f"where needs a condition of dtype bool, got {getattr(condition, 'dtype', type(condition))}")
    dtype = result_dtype(x, y)
    a, b = (v.astype(dtype, copy=False) if hasattr(v, "dtype") else xp_of(condition).asarray(v, dtype) for v in (x, y))
    return xp_of(a, b).where(condition, a, b), (
        None,
        lambda g: unbroadcast(xp_of(g).where(condition, g, 0).astype(g.dtype, copy=False), x),
        lambda g: unbroadcast(xp_of(g).where(condition, 0, g).astype(g.dtype, copy=False), y),
    )


def _comparison(name: str, symbol: str) -> Any:
    def compare(x: Any, y: Any) -> Any:
        return getattr(xp_of(x), name)(x, y), None

    compare.__name__, compare.__doc__ = name, f"x {symbol} y, elementwise."
    return op(compare)


eq = _comparison("equal", "==")
ne = _comparison("not_equal", "!=")
lt = _comparison("less", "<")
le = _comparison("less_equal", "<=")
gt = _comparison("greater", ">")
ge = _comparison("greater_equal", ">=")
bitwise_and = _comparison("bitwise_and", "&")
bitwise_or = _comparison("bitwise_or", "|")
bitwise_xor = _comparison("bitwise_xor", "^")
logical_and = _comparison("logical_and", "and")
logical_or = _comparison("logical_or", "or")


@op
def bitwise_not(x: Any) -> Any:
    """~x, elementwise: `not` for bools, the bits turned round for integers."""
    return xp_of(x).bitwise_not(x), None


@op
def logical_not(x: Any) -> Any:
    """not x, elementwise."""
    return xp_of(x).logical_not(x), None


@op
def isnan(x: Any) -> Any:
    """Whether x is NaN, elementwise."""
    return xp_of(x).isnan(x), None


@op
def isfinite(x: Any) -> Any:
    """Whether x is neither infinite nor NaN, elementwise."""
    return xp_of(x).isfinite(x), None
