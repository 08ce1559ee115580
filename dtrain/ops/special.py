"""Special functions: PyTorch's `torch.special`. Kernels work in float64; float32 is rounded at the end."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dtrain.autograd import op
from dtrain.backend import backend_of, xp_of
from dtrain.ops.activation import log_softmax, sigmoid, softmax
from dtrain.ops.arithmetic import log1p
from dtrain.ops.binary import xlog1py, xlogy
from dtrain.ops.dtypes import default_dtype, floating, plain, quiet, result_dtype, unbroadcast
from dtrain.ops.elementwise import exp2, expm1, round, sinc
from dtrain.ops.reduction import logsumexp

__all__ = [
    "digamma", "entr", "erf", "erfc", "erfcx", "erfinv", "exp2", "expit", "expm1", "gammaln", "i0", "i0e", "i1", "i1e",
    "lgamma", "log1p", "log_ndtr", "log_softmax", "logit", "logsumexp", "multigammaln", "mvlgamma", "ndtr", "ndtri",
    "polygamma", "psi", "round", "sinc", "softmax", "xlog1py", "xlogy", "zeta",
]  # fmt: skip

expit = sigmoid


def _again(function: Any, x: Any, y: Any) -> Any:
    """y, the value of `function` at x, as something that records where x does."""
    return function.raw(x) if hasattr(x, "tensor") else y


def _at(name: str, x: Any, *order: int) -> Any:
    """The kernel of that name (and order) at x."""
    x = xp_of(plain(x)).asarray(plain(x))
    return getattr(backend_of(x), name)(*order, x.reshape(-1)).reshape(x.shape)


# -- the error function ------------------------------------------------------------------------------


@op
@quiet
def erf(input: Any) -> Any:
    """2 / sqrt(pi) * the integral of exp(-t^2) from 0 to x."""
    x = floating(input)
    return _at("erf", x), lambda g: g * (xp_of(x).exp(-(x * x)) * (2 / math.sqrt(math.pi)))


@op
@quiet
def erfc(input: Any) -> Any:
    """1 - erf(x), accurate where that is small."""
    x = floating(input)
    return _at("erfc", x), lambda g: g * (xp_of(x).exp(-(x * x)) * (-2 / math.sqrt(math.pi)))


@op
@quiet
def erfcx(input: Any) -> Any:
    """exp(x^2) erfc(x)"""
    x = floating(input)
    y = _at("erfcx", x)
    return y, lambda g: g * (2 * x * _again(erfcx, x, y) - 2 / math.sqrt(math.pi))


@op
@quiet
def erfinv(input: Any) -> Any:
    """The number whose erf is x; infinite at -1 and 1, NaN beyond."""
    x = floating(input)
    y = _at("erfinv", x)

    def pullback(g: Any) -> Any:
        z = _again(erfinv, x, y)
        return g * (xp_of(x).exp(z * z) * (math.sqrt(math.pi) / 2))

    return y, pullback


@op
@quiet
def ndtr(input: Any) -> Any:
    """The probability that a normal draw (mean 0, variance 1) falls below x: erfc(-x / sqrt(2)) / 2."""
    x = floating(input)
    y = _at("erfc", plain(x) * x.dtype.type(-math.sqrt(0.5))) * x.dtype.type(0.5)
    return y, lambda g: g * (xp_of(x).exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi)))


@op
@quiet
def ndtri(input: Any) -> Any:
    """The number below which a normal draw (mean 0, variance 1) falls with probability x."""
    x = floating(input)
    y = _at("ndtri", x)

    def pullback(g: Any) -> Any:
        z = _again(ndtri, x, y)
        return g * (xp_of(x).exp(z * z * 0.5) * math.sqrt(2 * math.pi))

    return y, pullback


@op
@quiet
def log_ndtr(input: Any) -> Any:
    """log of `ndtr`, accurate where that is small."""
    x = floating(input)

    def pullback(g: Any) -> Any:
        return g * (math.sqrt(2 / math.pi) / erfcx.raw(x * -math.sqrt(0.5)))

    return _at("log_ndtr", x), pullback


@op
@quiet
def logit(input: Any, eps: float | None = None) -> Any:
    """log(x / (1 - x)); with eps, x is limited to [eps, 1 - eps] before, and the gradient is 0 outside."""
    x = floating(input)
    xp = xp_of(x)
    if eps is None:
        invalid = (plain(x) < 0) | (plain(x) > 1)
        y = xp.log(x / (1 - x))
        return y, lambda g: xp_of(x, g).where(invalid, np.nan, g / (x * (1 - x)))
    dead = (plain(x) < eps) | (plain(x) > 1 - eps)
    z = np.clip(plain(x), eps, 1 - eps)
    return np.log(z / (1 - z)), lambda g: xp_of(x, g).where(dead, 0, g / (x * (1 - x)))


@op
@quiet
def entr(input: Any) -> Any:
    """-x log(x); 0 at 0, -inf below."""
    x = floating(input)
    a = plain(x)
    y = np.where(a > 0, -a * np.log(a), np.where(a == 0, 0, np.where(a < 0, -np.inf, a)))
    return y.astype(x.dtype), lambda g: g * (-1 - xp_of(x).log(x))


# -- the gamma function ------------------------------------------------------------------------------


@op
@quiet
def lgamma(input: Any) -> Any:
    """log |gamma(x)|"""
    x = floating(input)
    return _at("lgamma", x), lambda g: g * digamma.raw(x)


@op
@quiet
def digamma(input: Any) -> Any:
    """The derivative of log gamma(x)."""
    x = floating(input)
    return _at("digamma", x), lambda g: g * _polygamma.raw(x, 1)


@op
@quiet
def _polygamma(input: Any, n: int) -> Any:
    x = floating(input)
    value = _at("polygamma", x, n)
    return value, lambda g: g * _polygamma.raw(x, n + 1)


def polygamma(n: int, input: Any) -> Any:
    """The n-th derivative of `digamma`. Raises ValueError for negative n."""
    if not isinstance(n, (int, np.integer)):
        n, input = input, n  # as a method: x.polygamma(n)
    if n < 0:
        raise ValueError(f"polygamma: n must not be negative, got {n}")
    return digamma(input) if n == 0 else _polygamma(input, int(n))


def mvlgamma(input: Any, p: int) -> Any:
    """log of the multivariate gamma function: p(p - 1)/4 log(pi) + the sum of lgamma(x - k/2) over k = 0 ... p - 1."""
    if p < 1:
        raise ValueError(f"mvlgamma: p must be at least 1, got {p}")
    if not input.is_floating_point():
        input = input.to(default_dtype)
    total = lgamma(input)
    for k in range(1, p):
        total = total + lgamma(input - k / 2)
    return total + p * (p - 1) / 4 * math.log(math.pi)


gammaln, psi, multigammaln = lgamma, digamma, mvlgamma


@op
@quiet
def zeta(input: Any, other: Any) -> Any:
    """The sum of (other + k)^-input over k = 0, 1, ... (Hurwitz); differentiable in `other`."""
    dtype = result_dtype(input, other)
    s, q = (np.asarray(plain(v), dtype if dtype.kind == "f" else default_dtype) for v in (input, other))

    def pullback(g: Any) -> Any:
        return unbroadcast(g * (-s * zeta.raw(s + 1, other)), other)

    return backend_of(s).zeta(s, q), (lambda g: unbroadcast(g * np.nan, input), pullback)


# -- Bessel functions --------------------------------------------------------------------------------


@op
@quiet
def i0(input: Any) -> Any:
    """The modified Bessel function of the first kind, of order 0."""
    x = floating(input)
    return _times_exp(0, x), lambda g: g * i1.raw(x)


@op
@quiet
def i1(input: Any) -> Any:
    """The modified Bessel function of the first kind, of order 1."""
    x = floating(input)
    return _times_exp(1, x), lambda g: g * (i0.raw(x) - _over(i1.raw(x), x))


@op
@quiet
def i0e(input: Any) -> Any:
    """exp(-|x|) i0(x)"""
    x = floating(input)
    return _at("bessel_ie", x, 0), lambda g: g * (i1e.raw(x) - np.sign(plain(x)) * i0e.raw(x))


@op
@quiet
def i1e(input: Any) -> Any:
    """exp(-|x|) i1(x)"""
    x = floating(input)
    return _at("bessel_ie", x, 1), lambda g: g * (i0e.raw(x) - i1e.raw(x) * np.sign(plain(x)) - _over(i1e.raw(x), x))


def _times_exp(order: int, x: Any) -> Any:
    """The kernel bessel_ie times exp(|x|)."""
    return _at("bessel_ie", x, order) * np.exp(np.abs(plain(x)))


def _over(y: Any, x: Any) -> Any:
    """y / x, and 1/2 at 0: there both i1 and i1e are x / 2."""
    at_zero = plain(x) == 0
    return xp_of(y).where(at_zero, 0.5, y / xp_of(x).where(at_zero, 1, x)).astype(y.dtype, copy=False)
