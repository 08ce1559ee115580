"""Functions of two and three numbers beyond arithmetic, with broadcasting."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.autograd import Tensor, op
from dtrain.backend import xp_of
from dtrain.ops import arithmetic
from dtrain.ops.dtypes import default_dtype, operands, plain, quiet, result_dtype, unbroadcast, zero

__all__ = [
    "addcdiv", "addcmul", "arctan2", "atan2", "copysign", "float_power", "floor_divide", "fmax", "fmin", "fmod", "gcd",
    "heaviside", "hypot", "lcm", "ldexp", "lerp", "logaddexp", "logaddexp2", "nextafter", "remainder", "rsub",
    "xlog1py", "xlogy",
]  # fmt: skip


def _floats(x: Any, y: Any) -> tuple[Any, Any]:
    """The operands as arrays of one floating-point dtype."""
    dtype = result_dtype(*(v.item() if isinstance(v, np.generic) else v for v in (x, y)))
    if dtype.kind != "f":
        dtype = default_dtype
    return tuple(v.astype(dtype, copy=False) if hasattr(v, "dtype") else np.asarray(v, dtype) for v in (x, y))  # type: ignore[return-value]


def _both(x: Any, y: Any) -> tuple[Any, Any]:
    """The operands as arrays of one dtype."""
    a, b = operands(x, y)
    return (a if hasattr(a, "dtype") else np.asarray(a, b.dtype)), (
        b if hasattr(b, "dtype") else np.asarray(b, a.dtype)
    )


@op
@quiet
def atan2(input: Any, other: Any) -> Any:
    """The angle of the point (other, input) from -pi to pi."""
    y, x = _floats(input, other)
    xp = xp_of(x, y)

    def per_square(g: Any) -> Any:
        square = x * x + y * y
        return xp_of(square, g).where(plain(square) == 0, 0, g / square)

    return xp.arctan2(y, x), (
        lambda g: unbroadcast(per_square(g) * x, input),
        lambda g: unbroadcast(per_square(g) * -y, other),
    )


arctan2 = atan2


@op
@quiet
def hypot(input: Any, other: Any) -> Any:
    """sqrt(x^2 + y^2) without overflow."""
    x, y = _floats(input, other)
    z = xp_of(x, y).hypot(x, y)
    return z, (lambda g: unbroadcast(g * (x / z), input), lambda g: unbroadcast(g * (y / z), other))


@op
@quiet
def logaddexp(input: Any, other: Any) -> Any:
    """log(exp(x) + exp(y)) without overflow."""
    x, y = _floats(input, other)
    xp = xp_of(x, y)
    return xp.logaddexp(x, y), (
        lambda g: unbroadcast(g / (1 + xp.exp(y - x)), input),
        lambda g: unbroadcast(g / (1 + xp.exp(x - y)), other),
    )


@op
@quiet
def logaddexp2(input: Any, other: Any) -> Any:
    """log2(2^x + 2^y) without overflow."""
    x, y = _floats(input, other)
    xp = xp_of(x, y)
    return np.logaddexp2(plain(x), plain(y)), (
        lambda g: unbroadcast(g / (1 + xp.exp2(y - x)), input),
        lambda g: unbroadcast(g / (1 + xp.exp2(x - y)), other),
    )


def _times_log(input: Any, other: Any, shift: float) -> Any:
    """input * log(other + shift), 0 where input is 0 and other no NaN."""
    x, y = _floats(input, other)
    xp = xp_of(x, y)
    inner = y + y.dtype.type(shift) if shift else y
    dead = (plain(x) == 0) & (plain(inner) <= 0)
    log = xp.log1p(y) if shift else xp.log(y)
    value = xp.where((plain(x) == 0) & ~np.isnan(plain(y)), 0, x * log)
    return value.astype(x.dtype, copy=False), (
        lambda g: unbroadcast(xp_of(g, log).where(dead, 0, g * log), input),
        lambda g: unbroadcast(g * (x / inner), other),
    )


@op
@quiet
def xlogy(input: Any, other: Any) -> Any:
    """x log(y), 0 where x is 0, unless y is NaN."""
    return _times_log(input, other, 0)


@op
@quiet
def xlog1py(input: Any, other: Any) -> Any:
    """x log(1 + y), 0 where x is 0, unless y is NaN."""
    return _times_log(input, other, 1)


# -- remainders and whole quotients ------------------------------------------------------------------


def _no_zero(name: str, y: Any) -> None:
    if plain(y).dtype.kind in "iub" and not np.all(plain(y)):
        raise ZeroDivisionError(f"{name}: division of integers by zero")


@op
@quiet
def fmod(input: Any, other: Any) -> Any:
    """x - y * trunc(x / y), with the sign of x. Raises ZeroDivisionError where integers are divided by 0."""
    a, b = _both(input, other)
    _no_zero("fmod", b)
    whole = lambda: np.trunc(plain(a) / plain(b)).astype(a.dtype, copy=False)  # noqa: E731
    return np.fmod(plain(a), plain(b)), (lambda g: unbroadcast(g, input), lambda g: unbroadcast(g * -whole(), other))


@op
@quiet
def remainder(input: Any, other: Any) -> Any:
    """x - y * floor(x / y), with the sign of y. Raises ZeroDivisionError where integers are divided by 0."""
    a, b = _both(input, other)
    _no_zero("remainder", b)
    whole = lambda: np.floor(plain(a) / plain(b)).astype(a.dtype, copy=False)  # noqa: E731
    return np.mod(plain(a), plain(b)), (lambda g: unbroadcast(g, input), lambda g: unbroadcast(g * -whole(), other))


@op
@quiet
def floor_divide(input: Any, other: Any) -> Any:
    """floor(x / y) in the operands' dtype. Raises ZeroDivisionError where integers are divided by 0."""
    a, b = _both(input, other)
    _no_zero("floor_divide", b)
    return xp_of(a).floor_divide(a, b), None


# -- choices -----------------------------------------------------------------------------------------


def _known(input: Any, other: Any, choose: Any, wins: Any) -> Any:
    """The extremum of x and y where a NaN counts for nothing; the first takes the gradient where they are equal."""
    x, y = _both(input, other)
    a, b = plain(x), plain(y)
    first = wins(a, b) | np.isnan(b)
    return choose(a, b), (lambda g: unbroadcast(g * first, input), lambda g: unbroadcast(g * ~first, other))


@op
def fmax(input: Any, other: Any) -> Any:
    """The larger of x and y, elementwise; of a number and NaN the number."""
    return _known(input, other, np.fmax, np.greater_equal)


@op
def fmin(input: Any, other: Any) -> Any:
    """The smaller of x and y, elementwise; of a number and NaN the number."""
    return _known(input, other, np.fmin, np.less_equal)


@op
@quiet
def copysign(input: Any, other: Any) -> Any:
    """|x| with the sign of y."""
    x, y = _floats(input, other)
    a = plain(x)
    value = np.copysign(a, plain(y))
    turn = np.where(a == 0, 0, value / np.where(a == 0, 1, a)).astype(x.dtype, copy=False)
    return value, (lambda g: unbroadcast(g * turn, input), lambda g: unbroadcast(zero(g), other))


@op
def heaviside(input: Any, values: Any) -> Any:
    """0 where x < 0, 1 where x > 0, values where x is 0. Raises TypeError for two dtypes."""
    if input.dtype != values.dtype:
        raise TypeError(f"heaviside needs one dtype, got {input.dtype} and {values.dtype}; convert with .to(dtype)")
    xp = xp_of(input)
    step = xp.where(input == 0, values, (input > 0).astype(input.dtype))
    return (xp.where(xp.isnan(input), np.nan, step) if input.dtype.kind == "f" else step).astype(input.dtype), None


@op
def nextafter(input: Any, other: Any) -> Any:
    """The next number of the dtype after x, on the way to y. The gradient goes to x where it moves."""
    a, b = _both(input, other)
    a, b = plain(a), plain(b)
    moves = a != b
    return xp_of(a).nextafter(a, b), (lambda g: unbroadcast(g * moves, input), lambda g: unbroadcast(zero(g), other))


@op
def gcd(input: Any, other: Any) -> Any:
    """The greatest common divisor of integers."""
    a, b = _both(input, other)
    return xp_of(a).gcd(a, b), None


@op
def lcm(input: Any, other: Any) -> Any:
    """The least common multiple of integers."""
    a, b = _both(input, other)
    return xp_of(a).lcm(a, b), None


# -- made of others ----------------------------------------------------------------------------------


@op
def lerp(input: Any, end: Any, weight: Any) -> Any:
    """input + weight * (end - input). Raises TypeError for two dtypes."""
    for v in (end, weight):
        if getattr(v, "dtype", input.dtype) != input.dtype and getattr(v, "ndim", 1):
            raise TypeError(f"lerp needs one dtype, got {input.dtype} and {v.dtype}; convert with .to(dtype)")
    a, b, w = input, end, weight
    return (a + w * (b - a)).astype(a.dtype, copy=False), (
        lambda g: unbroadcast(g * (1 - w), input),
        lambda g: unbroadcast(g * w, end),
        lambda g: unbroadcast(g * (b - a), weight),
    )


def addcmul(input: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> Any:
    """input + value * tensor1 * tensor2"""
    product = arithmetic.mul(tensor1, tensor2)
    return arithmetic.add(input, product if value == 1 else arithmetic.mul(product, value))


def addcdiv(input: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> Any:
    """input + value * tensor1 / tensor2. Raises TypeError for integers."""
    if not any(t.is_floating_point() for t in (tensor1, tensor2)):
        raise TypeError(f"addcdiv does not divide integers ({tensor1.dtype}, {tensor2.dtype}); convert with .float()")
    return arithmetic.add(input, arithmetic.div(tensor1 if value == 1 else arithmetic.mul(tensor1, value), tensor2))


def rsub(input: Any, other: Any, *, alpha: float = 1) -> Any:
    """other - alpha * input"""
    return arithmetic.sub(other, input if alpha == 1 else arithmetic.mul(input, alpha))


def float_power(input: Any, exponent: Any) -> Any:
    """input ** exponent in float64."""
    return arithmetic.pow(*(v.to(np.float64) if isinstance(v, Tensor) else float(v) for v in (input, exponent)))


def ldexp(input: Any, other: Any) -> Any:
    """input * 2^other"""
    return arithmetic.mul(input, arithmetic.pow(2.0, other))
