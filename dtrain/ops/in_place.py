"""Tensor's in-place methods: `x.add_(y)`, `x.relu_()`, `x += y`, `x[key] = value`.

Where nothing is recorded the elements of x are written. A recorded result takes the place of x:
`x` is then what the op computed, with its gradient. What x was before is left as it is for the gradients that
need it, so a tensor that shared its memory keeps the old elements. An error, not a wrong gradient, are

- a leaf that requires a gradient, as in PyTorch: use `dtrain.no_grad()`, or the form without underscore;
- a view (`x[0].mul_(2)`, `x.view(-1).relu_()`) where a gradient is recorded: that of the whole would be lost;
- a backward walk that needs elements which have been written since (see `autograd/writes.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, as_one_call, is_grad_enabled, mark_written, op
from dtrain.backend import Array, on_gpu
from dtrain.backend.halves import is_float
from dtrain.ops import (
    activation,
    arithmetic,
    methods,  # noqa: F401  (binds the methods that are here made in-place ones)
    piecewise,
    shape,
)
from dtrain.ops.distributions import IN_PLACE
from dtrain.ops.dtypes import plain, unbroadcast
from dtrain.ops.indexing import raw_key
from dtrain.ops.positions import slice_of, take_flat

__all__ = [
    "VIEWS", "celu_", "elu_", "hardtanh_", "leaky_relu_", "put_at", "relu_", "selu_", "threshold_",
]  # fmt: skip

#: The ops whose result shares memory with their first input.
VIEWS = frozenset((
    "_alias", "_permute", "_reshape", "_split", "broadcast_to", "contiguous", "diagonal", "slice_of", "squeeze",
    "unfold", "unsqueeze",
))  # fmt: skip


@op
def put_at(x: Any, source: Any, key: Any) -> Any:
    """A copy of x in which the elements x[key] are those of source, which may broadcast; see `raw_key` for key."""
    y = plain(x).copy()
    _assign(y, key, plain(source))

    def of_source(g: Any) -> Any:
        for part in key:
            if part is not Ellipsis:
                g = _part(g, part)
        return unbroadcast(g, source).astype(source.dtype)

    return y, (lambda g: put_at.raw(g, 0, key), of_source)


def _part(g: Any, key: Any) -> Any:
    """g[key]; elements may be taken twice."""
    keys = key if isinstance(key, tuple) else (key,)
    if any((isinstance(k, np.ndarray) or on_gpu(k)) and k.dtype.kind != "b" for k in keys):
        return take_flat.raw(g, np.arange(g.size).reshape(g.shape)[key])
    return slice_of.raw(g, key)


def _assign(array: Array, key: Any, value: Any) -> None:
    selected, rest = key
    if rest is Ellipsis:
        array[selected] = value
    else:
        array[selected][rest] = value


def _check_leaf(x: Tensor, name: str) -> None:
    if is_grad_enabled() and x.requires_grad and x.is_leaf:
        raise RuntimeError(
            f"{name} would change a leaf of shape {tuple(x.shape)} that requires a gradient; use it under "
            "dtrain.no_grad(), or the form without the trailing underscore"
        )


def _is_view(x: Tensor) -> bool:
    """Whether a gradient recorded for x alone would be lost to the tensor that x is a part of."""
    if x.requires_grad:
        return x._node is not None and x._node.op in VIEWS
    return isinstance(x.array.base, np.ndarray)


def _write(x: Tensor, value: Any) -> Tensor:
    _store(x, value)
    return x


@as_one_call
def _store(x: Tensor, value: Any) -> None:
    x.array[...] = value
    mark_written(x.array)


@as_one_call
def _apply(ufunc: Callable[..., Any], x: Tensor, other: Any) -> None:
    """x = ufunc(x, other)"""
    ufunc(x.array, other.array if isinstance(other, Tensor) else other, out=x.array, casting="same_kind")
    mark_written(x.array)


@as_one_call
def _store_at(x: Tensor, key: Any, value: Any) -> None:
    _assign(x.array, key, value.array if isinstance(value, Tensor) else value)
    mark_written(x.array)


def _become(x: Tensor, result: Tensor, name: str) -> Tensor:
    """x as the result of the op `name` of it."""
    if result.shape != x.shape or not np.can_cast(result.dtype, x.dtype, "same_kind"):
        raise RuntimeError(
            f"{name}: the result, of shape {tuple(result.shape)} and {result.dtype}, does not fit into a tensor of "
            f"shape {tuple(x.shape)} and {x.dtype}; use the form without the trailing underscore"
        )
    if not result.requires_grad:
        if not (x.requires_grad and is_grad_enabled()):
            return _write(x, result.array)
        result = put_at(x, result, (Ellipsis, Ellipsis))  # what was x counts nothing any more
    return _record(x, result, name)


def _record(x: Tensor, result: Tensor, name: str) -> Tensor:
    if _is_view(x):
        raise RuntimeError(
            f"{name} would lose a gradient: the tensor of shape {tuple(x.shape)} is a view of another one; use the "
            "form without the trailing underscore, or dtrain.cat, stack or where"
        )
    result = result.to(x.dtype)
    if x.requires_grad:
        x.array = result.array
    else:
        _write(x, result.array)
    x._node, x.requires_grad = result._node, True
    return x


# -- methods -----------------------------------------------------------------------------------------


def _of_method(name: str) -> Callable[..., Any]:
    function = getattr(Tensor, name)

    def method(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        _check_leaf(x, f"{name}_")
        return _become(x, function(x, *args, **kwargs), f"{name}_")

    method.__name__, method.__doc__ = f"{name}_", f"`{name}` in place."
    return method


_METHODS = (
    "abs absolute acos acosh addbmm addcdiv addcmul addmm addmv addr arccos arccosh arcsin arcsinh arctan arctan2 "
    "arctanh asin asinh atan atan2 atanh baddbmm bitwise_and bitwise_left_shift bitwise_not bitwise_or "
    "bitwise_right_shift bitwise_xor ceil clamp clamp_max clamp_min clip copysign cos cosh cumprod cumsum deg2rad "
    "digamma divide eq erf erfc erfinv exp exp2 expm1 fix float_power floor floor_divide fmod frac gcd ge greater "
    "greater_equal gt heaviside hypot i0 index_add index_copy index_fill index_put index_reduce lcm ldexp le lerp less "
    "less_equal lgamma log log10 log1p log2 logical_and logical_not logical_or logical_xor logit lt masked_fill "
    "masked_scatter multiply mvlgamma nan_to_num ne neg negative nextafter not_equal polygamma pow put rad2deg "
    "reciprocal relu remainder renorm round rsqrt scatter scatter_add scatter_reduce sgn sigmoid sign sin sinc sinh "
    "sqrt square subtract tan tanh tril triu true_divide trunc xlogy"
)
for name in _METHODS.split():
    setattr(Tensor, f"{name}_", _of_method(name))


def _of_function(function: Callable[..., Any]) -> Callable[..., Any]:
    def in_place(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: A002
        _check_leaf(input, in_place.__name__)
        return _become(input, function(input, *args, **kwargs), in_place.__name__)

    in_place.__name__, in_place.__doc__ = f"{function.__name__}_", f"`{function.__name__}` in place."
    return in_place


celu_, elu_, hardtanh_, leaky_relu_, relu_, selu_, threshold_ = map(
    _of_function,
    (
        activation.celu, activation.elu, piecewise.hardtanh, piecewise.leaky_relu, activation.relu, activation.selu,
        piecewise.threshold,
    ),
)  # fmt: skip


def _of_ufunc(name: str, ufunc: Callable[..., Any]) -> Callable[..., Any]:
    """x.add_(y) and its like: without a temporary array where nothing is recorded."""
    function = getattr(arithmetic, name)

    def method(x: Tensor, other: Any, **kwargs: Any) -> Tensor:
        recorded = is_grad_enabled() and (x.requires_grad or isinstance(other, Tensor) and other.requires_grad)
        if recorded or kwargs:
            _check_leaf(x, f"{name}_")
            return _become(x, function(x, other, **kwargs), f"{name}_")
        _apply(ufunc, x, other)
        return x

    method.__name__, method.__doc__ = f"{name}_", f"`{name}` in place."
    return method


for name, ufunc in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div", np.true_divide)):
    setattr(Tensor, f"{name}_", _of_ufunc(name, ufunc))


def _operator(name: str) -> Callable[..., Any]:
    method, function = getattr(Tensor, f"{name}_"), getattr(Tensor, name)

    def operator(x: Tensor, other: Any) -> Tensor:
        if is_grad_enabled() and (x.requires_grad or isinstance(other, Tensor) and other.requires_grad) and _is_view(x):
            return function(x, other)  # what was a view is one no more
        return method(x, other)

    return operator


for name, symbol in (
    ("add", "add"), ("sub", "sub"), ("mul", "mul"), ("div", "truediv"), ("floor_divide", "floordiv"),
    ("remainder", "mod"), ("pow", "pow"), ("bitwise_and", "and"), ("bitwise_or", "or"), ("bitwise_xor", "xor"),
    ("bitwise_left_shift", "lshift"), ("bitwise_right_shift", "rshift"),
):  # fmt: skip
    setattr(Tensor, f"__i{symbol}__", _operator(name))


def _of_shape(name: str) -> Callable[..., Any]:
    function = getattr(Tensor, name)

    def method(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        _check_leaf(x, f"{name}_")
        result = function(x, *args, **kwargs)
        x.array, x._node = result.array, result._node
        return x

    method.__name__, method.__doc__ = f"{name}_", f"`{name}` of the tensor itself; its elements stay where they are."
    return method


for name in ("squeeze", "swapaxes", "swapdims", "t", "transpose", "unsqueeze"):
    setattr(Tensor, f"{name}_", _of_shape(name))


# -- values ------------------------------------------------------------------------------------------


def _of_values(name: str, values: Callable[..., Any]) -> Callable[..., Any]:
    """The in-place method `name`, which writes values(x, ...) into x."""

    def method(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        _check_leaf(x, name)
        return _put(x, (Ellipsis, Ellipsis), values(x, *args, **kwargs), name)

    method.__name__, method.__doc__ = name, values.__doc__
    return method


def _put(x: Tensor, key: Any, value: Any, name: str) -> Tensor:
    recorded = x.requires_grad or isinstance(value, Tensor) and value.requires_grad
    if not recorded or not is_grad_enabled() or not is_float(x.dtype):
        _store_at(x, key, value)
        return x
    if isinstance(value, Tensor) and value.ndim > x.ndim:
        value = shape.reshape(value, value.shape[value.ndim - x.ndim :])
    return _record(x, put_at(x, value, key), name)


def _zero(x: Tensor) -> Any:
    """Set all elements to 0."""
    return 0


def _fill(x: Tensor, value: float) -> Any:
    """Set all elements to value, a number or a tensor of no dimensions."""
    if isinstance(value, Tensor) and value.ndim:
        raise RuntimeError(f"fill_ needs a number or a tensor of no dimensions, got shape {tuple(value.shape)}")
    return value


def _copy(x: Tensor, source: Tensor, non_blocking: bool = False) -> Any:
    """Copy the elements of source, which may broadcast."""
    return source


_VALUES: dict[str, Callable[..., Any]] = {"zero_": _zero, "fill_": _fill, "copy_": _copy, **IN_PLACE}
for name, values in _VALUES.items():
    setattr(Tensor, name, _of_values(name, values))


def _fill_diagonal(x: Tensor, fill_value: float, wrap: bool = False) -> Tensor:
    """Set the elements whose indices are all equal; with wrap, in a tall matrix, the diagonal begins again below.

    Raises ValueError for less than two dimensions, and for more of different sizes.
    """
    if x.ndim < 2 or x.ndim > 2 and len({*x.shape}) > 1:
        raise ValueError(f"fill_diagonal_ needs a matrix, or dimensions of one size, got shape {tuple(x.shape)}")
    _check_leaf(x, "fill_diagonal_")
    step = 1 + int(np.cumprod(x.shape[::-1])[:-1].sum())
    end = None if wrap or x.ndim > 2 else x.shape[1] ** 2
    places = np.unravel_index(np.arange(x.array.size)[:end:step], x.shape)
    return _put(x, (places, Ellipsis), fill_value, "fill_diagonal_")


Tensor.fill_diagonal_ = _fill_diagonal  # type: ignore[attr-defined]


def _set(x: Tensor, key: Any, value: Any) -> None:
    """x[key] = value."""
    _check_leaf(x, "x[...] = value")
    _put(x, raw_key(x.ndim, key), value, "x[...] = value")


Tensor.__setitem__ = _set  # type: ignore[method-assign]
