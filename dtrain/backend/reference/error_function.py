"""The error function's relatives: complement, scaled complement, inverse."""

from __future__ import annotations

import math

import numpy as np

from dtrain.backend.reference.elementwise import erf

__all__ = ["erfc", "erfcx", "erfinv", "log_ndtr", "ndtri"]


def _far_erfcx(x: np.ndarray) -> np.ndarray:
    """exp(x^2) erfc(x) for x >= 2: the continued fraction 7.1.14 of Abramowitz and Stegun."""
    fraction = np.zeros_like(x)
    for n in range(100, 0, -1):
        fraction = n / 2 / (x + fraction)
    return 1 / (math.sqrt(math.pi) * (x + fraction))


def erfc(x: np.ndarray) -> np.ndarray:
    """1 - erf(x), accurate where that is small, in x's dtype."""
    y = x.astype(np.float64)
    with np.errstate(all="ignore"):
        near = 1 - erf(np.where(np.abs(y) < 2, y, 0))
        a = np.maximum(np.abs(y), 2)
        far = _far_erfcx(a) * np.exp(-a * a)
        value = np.where(np.abs(y) < 2, near, np.where(y < 0, 2 - far, far))
        value = np.where(np.isinf(y), np.where(y > 0, 0, 2), np.where(np.isnan(y), np.nan, value))
    return value.astype(x.dtype)


def erfcx(x: np.ndarray) -> np.ndarray:
    """exp(x^2) erfc(x), which does not vanish for large x as erfc does, in x's dtype."""
    y = x.astype(np.float64)
    with np.errstate(all="ignore"):
        near = np.exp(y * y) * erfc(np.minimum(y, 2))
        value = np.where(y < 2, near, _far_erfcx(np.maximum(y, 2)))
        value = np.where(np.isnan(y), np.nan, np.where(np.isposinf(y), 0, value))
    return value.astype(x.dtype)


def _inverse(complement: np.ndarray) -> np.ndarray:
    """The x >= 0 whose erfc is `complement`, which lies in (0, 1]: Winitzki's guess, then Halley's steps."""
    c = np.clip(complement, 1e-320, 1)
    log = np.log(c * (2 - c))
    k = 2 / (math.pi * 0.147) + log / 2
    x = np.sqrt(np.maximum(np.sqrt(k * k - log / 0.147) - k, 0))
    for _ in range(4):
        error = np.where(x < 2, erfc(x) - c, 0)
        slope = 2 / math.sqrt(math.pi) * np.exp(-x * x)
        # Far out the logarithm is stepped on: erfc itself is all but zero there.
        far = (np.log(erfcx(x)) - x * x - np.log(c)) * erfcx(x) * math.sqrt(math.pi) / 2
        step = np.where(x < 2, error / slope, far)
        x = x + step / (1 + np.where(x < 2, x * step, 0))
    return x


def erfinv(x: np.ndarray) -> np.ndarray:
    """The number whose erf is x, in x's dtype; infinite at -1 and 1, NaN beyond."""
    y = x.astype(np.float64)
    with np.errstate(all="ignore"):
        a = np.abs(y)
        value = _inverse(1 - a)
        near = np.minimum(a, 0.5)  # from erf itself: 1 - a has lost the digits of small numbers
        t = near * math.sqrt(math.pi) / 2
        for _ in range(6):
            t = t - (erf(t) - near) * math.sqrt(math.pi) / 2 * np.exp(t * t)
        value = np.where(a < 0.5, t, value)
        value = np.where(a == 1, np.inf, np.where(a <= 1, value, np.nan))
    return np.copysign(value, y).astype(x.dtype)


def ndtri(p: np.ndarray) -> np.ndarray:
    """The number below which a normal draw (mean 0, variance 1) falls with probability p, in p's dtype."""
    y = p.astype(np.float64)
    with np.errstate(all="ignore"):
        tail = np.minimum(y, 1 - y)
        middle = erfinv(2 * y - 1)
        value = np.where(tail > 0.1, middle, np.copysign(_inverse(2 * tail), y - 0.5))
        value = np.where(tail == 0, np.copysign(np.inf, y - 0.5), value)
        value = np.where((y < 0) | (y > 1) | np.isnan(y), np.nan, value)
    return (math.sqrt(2) * value).astype(p.dtype)


def log_ndtr(x: np.ndarray) -> np.ndarray:
    """log of the probability that a normal draw (mean 0, variance 1) falls below x, in x's dtype."""
    y = x.astype(np.float64) * math.sqrt(0.5)
    with np.errstate(all="ignore"):
        low = np.log(erfcx(-y) / 2) - y * y
        high = np.log1p(-erfc(y) / 2)
        return np.where(y < -1, low, high).astype(x.dtype)
