"""Modified Bessel functions of the first kind."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["bessel_ie"]


def bessel_ie(order: int, x: np.ndarray) -> np.ndarray:
    """exp(-|x|) I_order(x) for order 0 or 1, in x's dtype.

    The power series (9.6.10 in Abramowitz and Stegun, Handbook of Mathematical Functions) up to 20, the
    asymptotic one (9.7.1) beyond.
    """
    y = x.astype(np.float64)
    a = np.abs(y)
    with np.errstate(all="ignore"):
        near = np.minimum(a, 20)
        quarter = near * near / 4
        term = np.ones_like(near) if order == 0 else near / 2
        series = term.copy()
        for k in range(1, 60):
            term = term * quarter / (k * (k + order))
            series += term
        far = np.maximum(a, 20)
        term = np.ones_like(far)
        tail = term.copy()
        for k in range(1, 30):
            term = term * -(4 * order * order - (2 * k - 1) ** 2) / (k * 8 * far)
            tail += term
        value = np.where(a < 20, series * np.exp(-near), tail / np.sqrt(2 * math.pi * far))
        value = np.where(np.isinf(a), 0, value)
        value = np.copysign(value, y) if order else value
        return np.where(np.isnan(y), np.nan, value).astype(x.dtype)
