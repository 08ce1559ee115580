"""Functions of one number: trigonometric, hyperbolic, exponential, rounding. Special functions are in `special.py`."""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np

from dtrain.autograd import Joint, op
from dtrain.backend import xp_of
from dtrain.ops.dtypes import floating, plain, quiet, zero

__all__ = [
    "acos", "acosh", "angle", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctanh", "asin", "asinh", "atan",
    "atanh", "ceil", "cosh", "deg2rad", "exp2", "expm1", "fix", "floor", "frac", "frexp", "isinf", "isneginf",
    "isposinf", "isreal", "log10", "log2", "nan_to_num", "positive", "rad2deg", "reciprocal", "round",
    "rsqrt", "sgn", "signbit", "sinc", "sinh", "tan", "trunc",
]  # fmt: skip


# -- trigonometry ------------------------------------------------------------------------------------


@op
@quiet
def tan(input: Any) -> Any:
    """tan(x), x in radians."""
    y = xp_of(input).tan(floating(input))
    return y, lambda g: g * (1 + y * y)


@op
@quiet
def asin(input: Any) -> Any:
    """The angle from -pi/2 to pi/2 whose sine is x; NaN outside of [-1, 1]."""
    x = floating(input)
    return xp_of(x).arcsin(x), lambda g: g / xp_of(x).sqrt(1 - x * x)


@op
@quiet
def acos(input: Any) -> Any:
    """The angle from 0 to pi whose cosine is x; NaN outside of [-1, 1]."""
    x = floating(input)
    return xp_of(x).arccos(x), lambda g: -g / xp_of(x).sqrt(1 - x * x)


@op
@quiet
def atan(input: Any) -> Any:
    """The angle from -pi/2 to pi/2 whose tangent is x."""
    x = floating(input)
    return xp_of(x).arctan(x), lambda g: g / (1 + x * x)


@op
@quiet
def sinh(input: Any) -> Any:
    """The hyperbolic sine (exp(x) - exp(-x)) / 2."""
    x = floating(input)
    return xp_of(x).sinh(x), lambda g: g * xp_of(x).cosh(x)


@op
@quiet
def cosh(input: Any) -> Any:
    """The hyperbolic cosine (exp(x) + exp(-x)) / 2."""
    x = floating(input)
    return xp_of(x).cosh(x), lambda g: g * xp_of(x).sinh(x)


@op
@quiet
def asinh(input: Any) -> Any:
    """The number whose hyperbolic sine is x."""
    x = floating(input)
    return xp_of(x).arcsinh(x), lambda g: g / xp_of(x).sqrt(x * x + 1)


@op
@quiet
def acosh(input: Any) -> Any:
    """The number whose hyperbolic cosine is x; NaN below 1."""
    x = floating(input)
    return xp_of(x).arccosh(x), lambda g: g / xp_of(x).sqrt(x * x - 1)


@op
@quiet
def atanh(input: Any) -> Any:
    """The number whose hyperbolic tangent is x; NaN outside of [-1, 1]."""
    x = floating(input)
    return xp_of(x).arctanh(x), lambda g: g / (1 - x * x)


arccos, arccosh, arcsin, arcsinh, arctan, arctanh = acos, acosh, asin, asinh, atan, atanh


@op
@quiet
def sinc(input: Any) -> Any:
    """sin(pi x) / (pi x), 1 at 0."""
    x = floating(input)
    xp, pi = xp_of(x), x.dtype.type(math.pi)

    def pullback(g: Any) -> Any:
        angle, square = pi * x, pi * x * x
        return xp.where(plain(square) == 0, 0, g * ((angle * xp.cos(angle) - xp.sin(angle)) / square))

    return np.sinc(plain(x)).astype(x.dtype, copy=False), pullback


@op
def deg2rad(input: Any) -> Any:
    """x degrees in radians."""
    x = floating(input)
    scale = x.dtype.type(math.pi / 180)
    return x * scale, lambda g: g * scale


@op
def rad2deg(input: Any) -> Any:
    """x radians in degrees."""
    x = floating(input)
    scale = x.dtype.type(180 / math.pi)
    return x * scale, lambda g: g * scale


@op
def angle(input: Any) -> Any:
    """0 for numbers from 0, pi for negative ones; the gradient is 0."""
    x = floating(input)
    y = np.where(np.isnan(plain(x)), np.nan, np.where(plain(x) < 0, math.pi, 0))
    return y.astype(x.dtype), zero


# -- exponentials, logarithms, powers ----------------------------------------------------------------


@op
@quiet
def expm1(input: Any) -> Any:
    """exp(x) - 1, accurate for small x."""
    y = xp_of(input).expm1(floating(input))
    return y, lambda g: g * (y + 1)


@op
@quiet
def exp2(input: Any) -> Any:
    """2 to the power of x."""
    y = xp_of(input).exp2(floating(input))
    return y, lambda g: g * (y * y.dtype.type(math.log(2)))


@op
@quiet
def log2(input: Any) -> Any:
    """The logarithm to base 2."""
    x = floating(input)
    return xp_of(x).log2(x), lambda g: g / (x * x.dtype.type(math.log(2)))


@op
@quiet
def log10(input: Any) -> Any:
    """The logarithm to base 10."""
    x = floating(input)
    return xp_of(x).log10(x), lambda g: g / (x * x.dtype.type(math.log(10)))


@op
@quiet
def reciprocal(input: Any) -> Any:
    """1 / x"""
    y = 1 / floating(input)
    return y, lambda g: -g * (y * y)


@op
@quiet
def rsqrt(input: Any) -> Any:
    """1 / sqrt(x)"""
    y = 1 / xp_of(input).sqrt(floating(input))
    return y, lambda g: g * (y * y * y * -0.5)


# -- signs and steps ---------------------------------------------------------------------------------


@op
def positive(input: Any) -> Any:
    """x itself. Raises TypeError for bools."""
    if input.dtype == np.bool_:
        raise TypeError("positive does not take bools; convert with .int()")
    return input, lambda g: g


@op
def sgn(input: Any) -> Any:
    """-1, 0 or 1; the gradient is 0."""
    x = plain(input)
    return x.copy() if x.dtype == np.bool_ else xp_of(x).sign(x), zero


@op
def signbit(input: Any) -> Any:
    """Whether x is negative, -0 included."""
    return xp_of(input).signbit(input) if input.dtype != np.bool_ else xp_of(input).zeros_like(input), None


def _step(name: str, doc: str, round_: Any) -> Any:
    """An op whose value is a step function of x, the same for integers, with gradient 0."""

    def step(input: Any) -> Any:
        x = plain(input)
        if x.dtype == np.bool_:
            raise TypeError(f"{name} does not take bools; convert with .int() or .float()")
        return (round_(x) if x.dtype.kind == "f" else x.copy()), zero

    step.__name__, step.__doc__ = name, doc
    return op(step)


ceil = _step("ceil", "The smallest whole number that is not below x; the gradient is 0.", np.ceil)
floor = _step("floor", "The largest whole number that is not above x; the gradient is 0.", np.floor)
trunc = fix = _step("trunc", "x without its fraction, towards 0; the gradient is 0.", np.trunc)


@op
@quiet
def round(input: Any, *, decimals: int = 0) -> Any:
    """The nearest number with so many decimals (tens, hundreds where negative), halves to even; the gradient is 0."""
    x = plain(input)
    if x.dtype == np.bool_:
        raise TypeError("round does not take bools; convert with .int() or .float()")
    if decimals == 0:
        return (xp_of(x).rint(x) if x.dtype.kind == "f" else x.copy()), zero
    if x.dtype.kind != "f":
        raise TypeError(f"round with decimals needs a floating-point tensor, got {x.dtype}; convert with .float()")
    scale = x.dtype.type(10.0 ** builtins.abs(decimals))
    return (xp_of(x).rint(x * scale) / scale if decimals > 0 else xp_of(x).rint(x / scale) * scale), zero


@op
def frac(input: Any) -> Any:
    """x - trunc(x); the gradient is 1. Raises TypeError for integers."""
    x = plain(input)
    if x.dtype.kind != "f":
        raise TypeError(f"frac needs a floating-point tensor, got {x.dtype}; convert with .float()")
    return x - xp_of(x).trunc(x), lambda g: g


@op
@quiet
def frexp(input: Any) -> Any:
    """(mantissa, exponent), x = mantissa * 2^exponent with 0.5 <= |mantissa| < 1; the exponents are int32."""
    x = plain(input)
    if x.dtype.kind != "f":
        raise TypeError(f"frexp needs a floating-point tensor, got {x.dtype}; convert with .float()")
    mantissa, exponent = xp_of(x).frexp(x)
    scale = xp_of(x).ldexp(x.dtype.type(1), -exponent)
    return (mantissa, exponent.astype(np.int32)), Joint(lambda g, needs: [None if g[0] is None else g[0] * scale])


@op
def nan_to_num(input: Any, nan: float | None = None, posinf: float | None = None, neginf: float | None = None) -> Any:
    """x with NaN and the infinities replaced: by 0, the largest and the lowest number of the dtype by default."""
    x = plain(input)
    if x.dtype.kind != "f":
        return x.copy(), None
    y = np.nan_to_num(x, nan=0.0 if nan is None else nan, posinf=posinf, neginf=neginf)
    return y, lambda g: g * xp_of(x).isfinite(x)


@op
def isinf(input: Any) -> Any:
    """Whether x is infinite, elementwise."""
    return xp_of(input).isinf(input), None


@op
def isposinf(input: Any) -> Any:
    """Whether x is positive infinity, elementwise."""
    return (input == np.inf), None


@op
def isneginf(input: Any) -> Any:
    """Whether x is negative infinity, elementwise."""
    return (input == -np.inf) if input.dtype.kind == "f" else xp_of(input).zeros(input.shape, np.bool_), None


@op
def isreal(input: Any) -> Any:
    """True, elementwise: tensors hold real numbers."""
    return xp_of(input).ones(input.shape, np.bool_), None
