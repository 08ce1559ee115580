"""Elementwise arithmetic with broadcasting, and the commonest functions of one number."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.autograd import op
from dtrain.autograd.op import Rule
from dtrain.backend import backend_of, on_gpu, xp_of
from dtrain.backend.halves import HALVES
from dtrain.ops.dtypes import Like, floating, operands, plain, result_dtype, unbroadcast, zero

__all__ = [
    "abs", "absolute", "add", "clamp", "clamp_max", "clamp_min", "clip", "cos", "div", "divide", "exp", "log", "log1p",
    "maximum", "minimum", "mul", "multiply", "neg", "negative", "pow", "sign", "sin", "sqrt", "square", "sub",
    "subtract", "true_divide", "where",
]  # fmt: skip


def _scaled(name: str, x: Any, y: Any, alpha: float) -> Any:
    """alpha * y; alpha may be a fraction only where the result is floating-point."""
    if alpha == 1:
        return y
    dtype = result_dtype(x, y)
    if isinstance(alpha, bool) and dtype.kind != "b" or isinstance(alpha, float) and dtype.kind != "f":
        raise TypeError(f"{name}: alpha={alpha} does not fit a result of dtype {dtype}")
    return y * alpha


def _alike(x: Any, y: Any) -> bool:
    """Whether x and y are arrays of one shape and dtype, so that neither is broadcast or converted."""
    return x.__class__ is y.__class__ and x.shape == y.shape and x.dtype == y.dtype


def _same(g: Any) -> Any:
    return g


@op(halves=True)
def add(input: Any, other: Any, *, alpha: float = 1) -> Any:
    """input + alpha * other with broadcasting."""
    if alpha == 1 and _alike(input, other):
        if on_gpu(input) or input.__class__ is np.ndarray and input.dtype in HALVES:
            return backend_of(input).add(input, other), (_same, _same)
        if input.dtype not in HALVES:
            return input + other, (_same, _same)
    return _UNLIKE(input, other, alpha=alpha)


def _added(input: Any, other: Any, alpha: float) -> Any:
    """`add`, of arrays that may be broadcast, or converted."""
    a, b = operands(input, _scaled("add", input, other, alpha))
    x, y = Like.of(input), Like.of(other)  # the graph keeps no elements
    if alpha == 1:
        return a + b, (lambda g: unbroadcast(g, x), lambda g: unbroadcast(g, y))
    return a + b, (lambda g: unbroadcast(g, x), lambda g: unbroadcast(g * alpha, y))


_UNLIKE = Rule(_added)


@op
def sub(input: Any, other: Any, *, alpha: float = 1) -> Any:
    """input - alpha * other with broadcasting. Raises TypeError for bools."""
    a, b = operands(input, _scaled("sub", input, other, alpha))
    if result_dtype(a, b).kind == "b" or np.bool_ in (getattr(a, "dtype", None), getattr(b, "dtype", None)):
        raise TypeError("sub does not take bools; use ^ (logical_xor) or convert with .int()")
    x, y = Like.of(input), Like.of(other)
    return a - b, (lambda g: unbroadcast(g, x), lambda g: unbroadcast(g * -alpha, y))


@op
def mul(input: Any, other: Any) -> Any:
    """input * other with broadcasting."""
    if _alike(input, other):
        return input * other, (lambda g: g * other, lambda g: g * input)
    a, b = operands(input, other)
    x, y = Like.of(input), Like.of(other)
    return a * b, (lambda g: unbroadcast(g * b, x), lambda g: unbroadcast(g * a, y))


@op
def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """input / other with broadcasting; integers give the default floating-point dtype.

    rounding_mode: "trunc" rounds towards 0, "floor" down, both in the operands' dtype. Raises ZeroDivisionError
    where integers are divided by 0 and rounded, ValueError for another mode.
    """
    a, b = operands(input, other)
    if rounding_mode is not None:
        return _whole(a, b, rounding_mode), (
            lambda g: unbroadcast(zero(g), input),
            lambda g: unbroadcast(zero(g), other),
        )
    if result_dtype(a, b).kind != "f":
        a, b = (floating(v if hasattr(v, "dtype") else xp_of(v).asarray(v)) for v in (a, b))
    z, x, y = _ratio(a, b), Like.of(input), Like.of(other)
    return z, (lambda g: unbroadcast(_ratio(g, b), x), lambda g: unbroadcast(_ratio(-g * z, b), y))


def _whole(x: Any, y: Any, mode: str) -> Any:
    """x / y rounded."""
    a, b, dtype = plain(x), plain(y), result_dtype(x, y)
    if mode not in ("trunc", "floor"):
        raise ValueError(f"div: rounding_mode must be None, 'trunc' or 'floor', got {mode!r}")
    if dtype.kind != "f" and not np.all(b):
        raise ZeroDivisionError("div: division of integers by zero")
    with np.errstate(all="ignore"):
        if mode == "trunc" and dtype.kind == "f":
            return np.trunc(a / b)
        q = np.asarray(np.floor_divide(a, b))
        return q if mode == "floor" else q + ((q < 0) & (np.multiply(q, b) != a))


def _ratio(x: Any, y: Any) -> Any:
    """x / y; what infinity or NaN comes of it is a value like others, and no warning."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return x / y


def _whole_power(a: Any, b: Any) -> Any:
    """a ** b without its fraction for integers, b negative in places: there 1, -1 or 0."""
    unit = np.where(b % 2 == 0, a * a == 1, np.where(np.abs(a) == 1, a, 0))
    return np.where(b < 0, unit, a ** np.maximum(b, 0)).astype(np.result_type(a, b))


@op
def pow(input: Any, exponent: Any) -> Any:
    """input ** exponent with broadcasting. The gradient of y is 0 where x = 0 and y >= 0, as in PyTorch.

    Integers to negative powers, of a tensor, are without their fraction: 0 but for 1 and -1. Raises ValueError where
    such a power is a number.
    """
    x, y = input, exponent
    a, b = operands(x, y)
    if result_dtype(a, b).kind in "iu" and np.any(np.less(plain(b), 0)):
        if isinstance(y, int):
            raise ValueError("pow: integers to negative integer powers are fractions; convert with .float()")
        return _whole_power(np.asarray(a), b), None
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
def neg(input: Any) -> Any:
    """-x. Raises TypeError for bools; their opposite is logical_not."""
    if input.dtype == np.bool_:
        raise TypeError(f"neg is not for bools (shape {input.shape}); use logical_not, or convert with .int()")
    return -input, lambda g: -g


@op
def abs(input: Any) -> Any:
    """|x|; the gradient at 0 is 0."""
    x, xp = input, xp_of(input)
    return xp.abs(x), lambda g: g * xp.sign(x)


@op
def square(input: Any) -> Any:
    """x * x; of bools as int64."""
    if input.dtype == np.bool_:
        input = input.astype(np.int64)
    return input * input, lambda g: 2 * g * input


@op
def exp(input: Any) -> Any:
    """exp(x), elementwise."""
    y = xp_of(input).exp(floating(input))
    return y, lambda g: g * y


@op
def log(input: Any) -> Any:
    """The natural logarithm, elementwise."""
    x = floating(input)
    with np.errstate(divide="ignore", invalid="ignore"):
        y = xp_of(x).log(x)
    return y, lambda g: _ratio(g, x)


@op
def log1p(input: Any) -> Any:
    """log(1 + x), accurate for small x."""
    x = floating(input)
    with np.errstate(divide="ignore", invalid="ignore"):
        y = xp_of(x).log1p(x)
    return y, lambda g: _ratio(g, 1 + x)


@op
def sqrt(input: Any) -> Any:
    """The square root, elementwise."""
    with np.errstate(invalid="ignore"):
        y = xp_of(input).sqrt(floating(input))
    return y, lambda g: _ratio(g, 2 * y)


@op
def sin(input: Any) -> Any:
    """sin(x), x in radians."""
    xp, x = xp_of(input), floating(input)
    return xp.sin(x), lambda g: g * xp.cos(x)


@op
def cos(input: Any) -> Any:
    """cos(x), x in radians."""
    xp, x = xp_of(input), floating(input)
    return xp.cos(x), lambda g: -g * xp.sin(x)


@op
def sign(input: Any) -> Any:
    """-1, 0 or 1; the gradient is 0."""
    return input.copy() if input.dtype == np.bool_ else xp_of(input).sign(input), zero


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
def maximum(input: Any, other: Any) -> Any:
    """The larger of x and y, elementwise, with broadcasting."""
    return _choose(input, other, "greater", "maximum")


@op
def minimum(input: Any, other: Any) -> Any:
    """The smaller of x and y, elementwise, with broadcasting."""
    return _choose(input, other, "less", "minimum")


@op
def clamp(input: Any, min: Any = None, max: Any = None) -> Any:
    """input limited to [min, max], numbers or tensors that broadcast; max where min > max.

    The gradient goes to what the result was taken from. Raises ValueError where neither is given.
    """
    if min is None and max is None:
        raise ValueError("clamp needs min, max or both")
    bounds = [b.item() if isinstance(b, np.generic) else b for b in (min, max)]
    dtype = result_dtype(input, *(b for b in bounds if b is not None))
    x, low, high = (plain(v) for v in (input, *bounds))
    if dtype.kind == "f":  # a bound of another category
        low, high = (float(v) if isinstance(v, int) else v for v in (low, high))
    x, low, high = (np.asarray(v, dtype) if hasattr(v, "dtype") and v.dtype != dtype else v for v in (x, low, high))
    below = lambda: np.False_ if low is None else np.less(x, low)  # noqa: E731
    above = lambda: np.False_ if high is None else np.greater(x, high)  # noqa: E731
    # Where the bounds cross, all of the result is max's.
    crossed = lambda: np.False_ if low is None or high is None else np.greater(low, high)  # noqa: E731
    return xp_of(x).clip(x, low, high), (
        lambda g: unbroadcast(g * ~(below() | above() | crossed()), input),
        lambda g: unbroadcast(g * (below() & ~crossed()), min),
        lambda g: unbroadcast(g * (above() | crossed()), max),
    )


clip = clamp


def clamp_min(input: Any, min: Any) -> Any:
    """input, but at least min."""
    return clamp(input, min)


def clamp_max(input: Any, max: Any) -> Any:
    """input, but at most max."""
    return clamp(input, None, max)


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


absolute, negative, subtract, multiply, divide, true_divide = abs, neg, sub, mul, div, div
