"""The gamma function's logarithm and the derivatives of that; the zeta function."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["digamma", "lgamma", "polygamma", "zeta"]

# B(2k) / (2k), k = 1, 2, ...: the coefficients of digamma's asymptotic series (6.3.18 in Abramowitz and Stegun).
_DIGAMMA = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12, -3617 / 8160)
_BERNOULLI = (
    1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798, -174611 / 330,
)  # fmt: skip
_FAR = 10  # from here on the asymptotic series are exact in float64


def lgamma(x: np.ndarray) -> np.ndarray:
    """log |gamma(x)|, in x's dtype.

    Stirling's series (6.1.41 in Abramowitz and Stegun, Handbook of Mathematical Functions) from 10 on, below by
    gamma(x + 1) = x gamma(x), for x < 0.5 by gamma(x) gamma(1 - x) = pi / sin(pi x).
    """
    y = x.astype(np.float64)
    with np.errstate(all="ignore"):
        mirrored = y < 0.5
        z = np.where(mirrored, 1 - y, y)
        product = np.ones_like(z)
        far = z.copy()
        for _ in range(_FAR):
            near = far < _FAR
            product = np.where(near, product * far, product)
            far = np.where(near, far + 1, far)
        value = (far - 0.5) * np.log(far) - far + 0.5 * math.log(2 * math.pi) - np.log(product)
        power = 1 / far
        for k, b in enumerate(_DIGAMMA, 1):
            value += power * b / (2 * k - 1)
            power = power / (far * far)
        value = np.where(np.isposinf(far), np.inf, value)
        value = np.where((z == 1) | (z == 2), 0, value)
        whole = y == np.floor(y)
        sine = np.abs(np.sin(math.pi * (y - np.floor(y))))
        value = np.where(mirrored, np.where(whole, np.inf, np.log(math.pi / sine) - value), value)
        value = np.where(np.isinf(y), np.inf, value)
    return value.astype(x.dtype)


def digamma(x: np.ndarray) -> np.ndarray:
    """The derivative of log gamma(x), in x's dtype; NaN at negative whole numbers, -inf at 0, inf at -0.

    The asymptotic series (6.3.18 in Abramowitz and Stegun) from 10 on, below by psi(x + 1) = psi(x) + 1 / x, for
    x < 0 by psi(1 - x) - psi(x) = pi / tan(pi x).
    """
    y = x.astype(np.float64)
    with np.errstate(all="ignore"):
        mirrored = y < 0
        far = np.where(mirrored, 1 - y, y)
        value = np.zeros_like(far)
        for _ in range(_FAR):
            near = far < _FAR
            value = np.where(near, value - 1 / far, value)
            far = np.where(near, far + 1, far)
        value += np.log(far) - 0.5 / far
        power = 1 / (far * far)
        for b in _DIGAMMA:
            value -= power * b
            power = power / (far * far)
        value = np.where(np.isposinf(far), np.inf, value)
        fraction = y - np.trunc(y)
        value = np.where(mirrored, np.where(fraction == 0, np.nan, value - math.pi / np.tan(math.pi * fraction)), value)
        value = np.where(y == 0, np.copysign(np.inf, -y), value)
    return value.astype(x.dtype)


def zeta(s: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The sum of (q + k)^-s over k = 0, 1, ... (Hurwitz), in the dtype of s; NaN for s < 1, inf at s = 1.

    For q <= 0: inf at whole numbers, else NaN unless s is whole. Ten terms, then the sum formula of Euler and
    Maclaurin (23.1.30 in Abramowitz and Stegun).
    """
    a, b = np.broadcast_arrays(s.astype(np.float64), q.astype(np.float64))
    with np.errstate(all="ignore"):
        far = b.copy()
        value = np.zeros_like(far)
        steps = 0 if not b.size else int(np.nanmax(np.clip(_FAR - np.where(np.isfinite(b), b, 0), 0, 10_000)) + 1)
        for _ in range(steps):
            near = far < _FAR
            value = np.where(near, value + far**-a, value)
            far = np.where(near, far + 1, far)
        value += far ** (1 - a) / (a - 1) + 0.5 * far**-a
        factor, power = a, far ** (-a - 1)
        for k, number in enumerate(_BERNOULLI, 1):
            value += number / math.factorial(2 * k) * factor * power
            factor = factor * (a + 2 * k - 1) * (a + 2 * k)
            power = power / (far * far)
        value = np.where(np.isposinf(b), 0, value)
        value = np.where((b <= 0) & (a != np.floor(a)), np.nan, value)
        value = np.where((b <= 0) & (b == np.floor(b)), np.inf, value)
        value = np.where(a == 1, np.inf, np.where((a < 1) | np.isnan(a) | np.isnan(b), np.nan, value))
    return value.astype(s.dtype)


def polygamma(n: int, x: np.ndarray) -> np.ndarray:
    """The n-th derivative of digamma: (-1)^(n + 1) n! zeta(n + 1, x) for n > 0 (6.4.10 in Abramowitz and Stegun)."""
    if n == 0:
        return digamma(x)
    y = x.astype(np.float64)
    sign = math.factorial(n) if n % 2 else -math.factorial(n)
    return (sign * zeta(np.asarray(n + 1.0), y)).astype(x.dtype)
