"""PyTorch's rules for operands of different dtypes and shapes."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from dtrain.autograd import Joint, Tensor
from dtrain.autograd.mode import mode
from dtrain.autograd.op import to_lower
from dtrain.backend import Array, xp_of
from dtrain.backend.halves import HALVES, halved, is_float, widened

__all__ = [
    "Like", "default_dtype", "dimension", "floating", "in_float32", "lowered", "only_floats", "operands", "plain",
    "quiet", "result_dtype", "same_dtype", "unbroadcast", "zero",
]  # fmt: skip

default_dtype = np.dtype(np.float32)
_KINDS = {"b": 0, "i": 1, "u": 1, "f": 2, "V": 2}  # V: NumPy's word for numbers that are not its own, bfloat16
_SCALARS = {bool: np.dtype(bool), int: np.dtype(np.int64), float: default_dtype}


def _rank(x: Any) -> tuple[int, int, np.dtype]:
    """Category of x's dtype; 0 for a Python number, 1 for an array of no dimensions, 2 for others; the dtype."""
    dtype = _SCALARS.get(type(x))
    if dtype is not None:
        return _KINDS[dtype.kind], 0, dtype
    if x.dtype.kind not in _KINDS:
        raise TypeError(f"dtype {x.dtype} is not supported")
    return _KINDS[x.dtype.kind], min(x.ndim, 1) + 1, x.dtype


def result_dtype(*operands: Any) -> np.dtype:
    """The dtype of a result: the highest category (bool < int < float) wins; within it arrays with
    dimensions win over those without, and these over Python numbers (torch.result_type)."""
    ranks = [_rank(x) for x in operands]
    category, priority = max((c, p) for c, p, _ in ranks)
    dtypes = [d for c, p, d in ranks if (c, p) == (category, priority)]
    result = dtypes[0]
    for d in dtypes[1:]:
        result = np.dtype(np.float32) if {result, d} == set(HALVES) else np.promote_types(result, d)
    return result


def operands(x: Any, y: Any) -> tuple[Any, Any]:
    """x and y (arrays or Python numbers, one an array) ready for an elementwise operation in one dtype."""
    if isinstance(x, np.generic):  # NumPy's scalars count as Python numbers beside an array, as in PyTorch
        x = np.asarray(x) if isinstance(y, (int, float, np.generic)) else x.item()
    if isinstance(y, np.generic):
        y = np.asarray(y) if isinstance(x, (int, float)) else y.item()
    if isinstance(y, (int, float)) and is_float(x.dtype):
        return x, y
    if isinstance(x, (int, float)) and is_float(y.dtype):
        return x, y
    if getattr(x, "dtype", None) == getattr(y, "dtype", 0):
        return x, y
    dtype = result_dtype(x, y)
    return _as(x, dtype, y), _as(y, dtype, x)


def _as(x: Any, dtype: np.dtype, other: Array) -> Array:
    """x in another dtype; a Python number as an array where `other` lives."""
    return x.astype(dtype, copy=False) if hasattr(x, "dtype") else xp_of(other).asarray(x, dtype)


def floating(x: Any) -> Any:
    """x itself where it is floating-point, else in the default dtype."""
    return x if is_float(x.dtype) else x.astype(default_dtype)


def only_floats(op: str, x: Any) -> None:
    """Raise TypeError unless x is floating-point, where PyTorch does not convert."""
    if not is_float(x.dtype):
        raise TypeError(f"{op} needs a floating-point tensor, got {x.dtype} of shape {x.shape}; convert with .float()")


def same_dtype(op: str, *arrays: Any) -> None:
    """Raise TypeError unless the arrays have one dtype: products are not promoted, as in PyTorch."""
    first = arrays[0].dtype
    for a in arrays[1:]:
        if a is not None and a.dtype != first:
            raise TypeError(f"{op} needs operands of one dtype, got {first} and {a.dtype}; convert with .to(dtype)")


class Like:
    """The shape and dtype of an array, for a pullback that does not need its elements."""

    __slots__ = ("dtype", "ndim", "shape")

    def __init__(self, x: Any) -> None:
        self.shape, self.ndim, self.dtype = x.shape, x.ndim, x.dtype

    @classmethod
    def of(cls, x: Any) -> Like | None:
        """Of an array; None for a Python number, which gets no gradient."""
        return cls(x) if hasattr(x, "dtype") else None


def unbroadcast(g: Array, x: Any) -> Array:
    """The gradient of x (or of what is `Like` it) from the gradient g of x broadcast: summed over what was

    repeated, in x's dtype.
    """
    if g.shape == x.shape and g.dtype == x.dtype:
        return g
    if g.dtype in HALVES:
        return halved(unbroadcast(widened(g), x), x.dtype)
    if g.ndim > x.ndim:
        g = g.sum(tuple(range(g.ndim - x.ndim)))
    repeated = tuple(i for i, n in enumerate(x.shape) if n == 1 and g.shape[i] != 1)
    if repeated:
        g = g.sum(repeated, keepdims=True)
    return g if g.dtype == x.dtype else g.astype(x.dtype)


def dimension(dim: int, ndim: int) -> int:
    """dim counted from the front. Raises IndexError where a tensor of ndim dimensions does not have it.

    A tensor of no dimensions takes 0 and -1, as in PyTorch.
    """
    n = max(ndim, 1)
    if not -n <= dim < n:
        raise IndexError(f"dim {dim} is out of range for a tensor of {ndim} dimensions; use {-n} to {n - 1}")
    return int(dim) % n


def plain(x: Any) -> Any:
    """The array of what records (see `dtrain.autograd.recorded`), for values whose gradient is not taken from them."""
    return x.tensor.array if hasattr(x, "tensor") else x


def zero(g: Any) -> Any:
    """The gradient of a function of steps."""
    return xp_of(g).zeros_like(g)


def in_float32(function: Callable[..., Any]) -> Any:
    """`@in_float32 def f(...)`: inside of `autocast` the function is computed in float32: losses, sums of products."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if mode.autocast is None:
            return function(*args, **kwargs)
        before, mode.autocast = mode.autocast, None
        try:
            return function(*map(_wide, args), **{name: _wide(a) for name, a in kwargs.items()})
        finally:
            mode.autocast = before

    return call


def lowered(function: Callable[..., Any]) -> Any:
    """`@lowered def f(...)`: inside of `autocast` all Tensors that f gets are converted, as for `@op(lowered=True)`."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if mode.autocast is not None:
            args = tuple(to_lower(a, mode.autocast) for a in args)
            kwargs = {name: to_lower(a, mode.autocast) for name, a in kwargs.items()}
        return function(*args, **kwargs)

    return call


def _wide(a: Any) -> Any:
    return a.to(np.float32) if isinstance(a, Tensor) and a.array.dtype in HALVES else a


def quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """`@op @quiet`: infinity and NaN are values like others in the function and its pullbacks, and no warning."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with np.errstate(all="ignore"):
            value, pullbacks = function(*args, **kwargs)
        if isinstance(pullbacks, tuple):
            return value, tuple(map(_silent, pullbacks))
        return value, Joint(_silent(pullbacks.function)) if isinstance(pullbacks, Joint) else _silent(pullbacks)

    return call


def _silent(pullback: Any) -> Any:
    if pullback is None:
        return None

    def call(*args: Any) -> Any:
        with np.errstate(all="ignore"):
            return pullback(*args)

    return call
