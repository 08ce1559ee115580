"""Comparisons, logic and bits, elementwise; whether tensors are equal or close."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.autograd import Tensor, op
from dtrain.backend import xp_of
from dtrain.ops.dtypes import operands

__all__ = [
    "allclose", "bitwise_and", "bitwise_left_shift", "bitwise_not", "bitwise_or", "bitwise_right_shift", "bitwise_xor",
    "eq", "equal", "ge", "greater", "greater_equal", "gt", "isclose", "isfinite", "isin", "isnan", "le", "less",
    "less_equal", "logical_and", "logical_not", "logical_or", "logical_xor", "lt", "ne", "not_equal",
]  # fmt: skip


def _comparison(name: str, symbol: str) -> Any:
    def compare(input: Any, other: Any) -> Any:
        return getattr(xp_of(input), name)(input, other), None

    compare.__name__, compare.__doc__ = name, f"input {symbol} other, elementwise."
    return op(compare)


eq = _comparison("equal", "==")
ne = not_equal = _comparison("not_equal", "!=")
lt = less = _comparison("less", "<")
le = less_equal = _comparison("less_equal", "<=")
gt = greater = _comparison("greater", ">")
ge = greater_equal = _comparison("greater_equal", ">=")
bitwise_and = _comparison("bitwise_and", "&")
bitwise_or = _comparison("bitwise_or", "|")
bitwise_xor = _comparison("bitwise_xor", "^")
logical_and = _comparison("logical_and", "and")
logical_or = _comparison("logical_or", "or")
logical_xor = _comparison("logical_xor", "xor")


def _shift(name: str, doc: str) -> Any:
    def shift(input: Any, other: Any) -> Any:
        a, b = operands(input, other)
        if not all(getattr(v, "dtype", np.dtype(np.int64)).kind in "iu" for v in (a, b)):
            raise TypeError(f"{name} needs integers, got {getattr(a, 'dtype', a)} and {getattr(b, 'dtype', b)}")
        return getattr(np, name.removeprefix("bitwise_"))(a, b), None

    shift.__name__, shift.__doc__ = name, doc
    return op(shift)


bitwise_left_shift = _shift("bitwise_left_shift", "input * 2^other, the bits moved up.")
bitwise_right_shift = _shift("bitwise_right_shift", "floor(input / 2^other), the bits moved down.")


@op
def bitwise_not(input: Any) -> Any:
    """~x, elementwise: `not` for bools, the bits turned round for integers."""
    return xp_of(input).bitwise_not(input), None


@op
def logical_not(input: Any) -> Any:
    """not x, elementwise."""
    return xp_of(input).logical_not(input), None


@op
def isnan(input: Any) -> Any:
    """Whether x is NaN, elementwise."""
    return xp_of(input).isnan(input), None


@op
def isfinite(input: Any) -> Any:
    """Whether x is neither infinite nor NaN, elementwise."""
    return xp_of(input).isfinite(input), None


def _check_close(name: str, x: Any, y: Any, rtol: float, atol: float) -> None:
    if x.dtype != y.dtype:
        raise TypeError(f"{name} needs one dtype, got {x.dtype} and {y.dtype}; convert with .to(dtype)")
    if rtol < 0 or atol < 0:
        raise ValueError(f"{name}: rtol and atol must not be negative, got {rtol} and {atol}")


@op
def isclose(input: Any, other: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Any:
    """|x - y| <= atol + rtol |y|, elementwise; infinities are close to themselves, NaN to NaN with equal_nan."""
    _check_close("isclose", input, other, rtol, atol)
    return xp_of(input).isclose(input, other, rtol, atol, equal_nan), None


def allclose(input: Any, other: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> bool:
    """Whether all elements are close; see `isclose`."""
    return bool(isclose(input, other, rtol, atol, equal_nan).array.all())


def equal(input: Any, other: Any) -> bool:
    """Whether two tensors have the same shape and the same elements."""
    if not isinstance(input, Tensor) or not isinstance(other, Tensor):
        raise TypeError(f"equal needs two tensors, got {type(input).__name__} and {type(other).__name__}")
    return input.shape == other.shape and bool((input.array == other.array).all())


@op
def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Any:
    """Whether each element is among test_elements (or is not, with invert)."""
    xp = xp_of(elements)
    return xp.isin(elements, test_elements, assume_unique=assume_unique, invert=invert), None
