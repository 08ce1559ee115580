"""Sums of floating-point numbers that are exact, and so the same in any order and on any number of ranks.

A float64 is a whole number of 53 bits times a power of two. The sum is kept as one whole number of 2,304 bits, in
limbs of 32 bits, each in an int64: room for every float64 and every sum of fewer than 2^63 of them. Limbs of
different sums, of ranks for example, are added one by one. Three more counts say how many NaN, inf and -inf came.

The idea is U. Kulisch's: a register so long that no addition has to round ("Computer Arithmetic and Validity", 2008).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SIZE", "as_float", "exact_ratio", "exact_sum", "exact_value"]

BITS = 32
MASK = (1 << BITS) - 1
LIMBS = 72
POINT = 1152  # limb 0 counts units of 2^-POINT; the smallest float64 has its last bit above that
SIZE = LIMBS + 3  # numbers in a sum
CHUNK = 1 << 20  # elements that can be added before carries must be made, with much to spare


def exact_sum(values: NDArray[Any]) -> NDArray[np.int64]:
    """The exact sum of all elements of `values`, converted to float64: int64 of (SIZE,). Such sums may be added."""
    total = np.zeros(SIZE, np.int64)
    flat = values.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        _add(total, flat[start : start + CHUNK].astype(np.float64))
        _carry(total)
    return total


def _add(total: NDArray[np.int64], x: NDArray[np.float64]) -> None:
    finite = np.isfinite(x)
    if not finite.all():
        total[LIMBS:] += np.count_nonzero(np.isnan(x)), np.count_nonzero(x == np.inf), np.count_nonzero(x == -np.inf)
        x = x[finite]
    fraction, exponent = np.frexp(x)
    whole = np.ldexp(fraction, 53).astype(np.int64)  # x = whole * 2^(exponent - 53)
    limb, shift = np.divmod(exponent.astype(np.int64) - 53 + POINT, BITS)
    low, high = (whole & MASK) << shift, (whole >> BITS) << shift
    for offset, part in ((0, low & MASK), (1, low >> BITS), (1, high & MASK), (2, high >> BITS)):
        np.add.at(total, limb + offset, part)


def _carry(total: NDArray[np.int64]) -> None:
    """Leave less than 2^32 in every limb but the last, which has the sign."""
    carry = 0
    for i, limb in enumerate(total[:LIMBS].tolist()):
        limb += carry
        carry = limb >> BITS if i < LIMBS - 1 else 0
        total[i] = limb - (carry << BITS)


def exact_value(total: NDArray[np.int64]) -> Fraction | float:
    """The value of a sum: a fraction, or NaN, inf or -inf where these were among the elements."""
    nan, plus, minus = total[LIMBS:].tolist()
    if nan or (plus and minus):
        return math.nan
    if plus or minus:
        return math.inf if plus else -math.inf
    whole = sum(limb << (BITS * i) for i, limb in enumerate(total[:LIMBS].tolist()))
    return Fraction(whole, 1 << POINT)


def exact_ratio(total: NDArray[np.int64], divisor: Fraction | float | int) -> float:
    """The sum divided by `divisor`, rounded once. Raises ZeroDivisionError if that is 0."""
    value = exact_value(total)
    if isinstance(value, float) or isinstance(divisor, float):
        return as_float(value) / as_float(divisor)
    return as_float(value / divisor)


def as_float(value: Fraction | float | int) -> float:
    """The nearest float64; inf or -inf where that is too small to hold it."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
