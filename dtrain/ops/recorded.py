"""What `Recorded` arrays can do: NumPy's dialect, made of ops. See `dtrain.autograd.recorded`."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from dtrain.autograd import Recorded
from dtrain.backend import NoKernelError
from dtrain.backend.halves import is_float
from dtrain.ops import activation, arithmetic, binary, elementwise, indexing, linear, reduction, scan, shape

__all__ = ["Namespace"]


def _plain(x: Any) -> Any:
    """The array of a Recorded; anything else as it is."""
    return x.tensor.array if isinstance(x, Recorded) else x


def _tensor(x: Any) -> Any:
    return x.tensor if isinstance(x, Recorded) else x


# -- operators ---------------------------------------------------------------------------------------

for name, op in (
    ("add", arithmetic.add), ("sub", arithmetic.sub), ("mul", arithmetic.mul), ("truediv", arithmetic.div),
    ("pow", arithmetic.pow), ("matmul", linear.matmul),
):  # fmt: skip
    setattr(Recorded, f"__{name}__", lambda x, y, raw=op.raw: raw(x, y))
    setattr(Recorded, f"__r{name}__", lambda x, y, raw=op.raw: raw(y, x))

# Truth values have no gradient: plain arrays.
for name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Recorded, f"__{name}__", lambda x, y, name=name: getattr(_plain(x), f"__{name}__")(_plain(y)))


# -- methods, with NumPy's arguments -----------------------------------------------------------------


def _sum(x: Any, axis: Any = None, dtype: Any = None, out: None = None, keepdims: bool = False) -> Any:
    return Recorded(reduction.sum(x.tensor, axis, keepdims, dtype))


def _mean(x: Any, axis: Any = None, dtype: Any = None, out: None = None, keepdims: bool = False) -> Any:
    return Recorded(reduction.mean(x.tensor, axis, keepdims, dtype))


def _max(x: Any, axis: Any = None, out: None = None, keepdims: bool = False) -> Any:
    return Recorded(reduction.amax(x.tensor, axis, keepdims))


def _min(x: Any, axis: Any = None, out: None = None, keepdims: bool = False) -> Any:
    return Recorded(reduction.amin(x.tensor, axis, keepdims))


def _transpose(x: Any, *axes: Any) -> Any:
    if not axes or axes[0] is None:
        axes = tuple(range(x.ndim))[::-1]
    return Recorded(shape.permute(x.tensor, *axes))


def _swapaxes(x: Any, a: int, b: int) -> Any:
    return Recorded(shape.transpose(x.tensor, a, b))


def _reshape(x: Any, *sizes: Any, order: str = "C") -> Any:
    return Recorded(shape.reshape(x.tensor, *sizes))


def _astype(
    x: Any, dtype: Any, order: str = "K", casting: str = "unsafe", subok: bool = True, copy: bool = True
) -> Any:
    if not is_float(np.dtype(dtype)):
        return x.tensor.array.astype(dtype)
    return Recorded(x.tensor.to(dtype))


def _squeeze(x: Any, axis: Any = None) -> Any:
    return Recorded(shape.squeeze(x.tensor, axis))


def _getitem(x: Any, key: Any) -> Any:
    return Recorded(indexing.index(x.tensor, key))


_METHODS: dict[str, Callable[..., Any]] = {
    "__abs__": lambda x: arithmetic.abs.raw(x),
    "__getitem__": _getitem,
    "__neg__": lambda x: arithmetic.neg.raw(x),
    "astype": _astype,
    "copy": lambda x, order="C": x,
    "cumprod": lambda x, axis: Recorded(scan.cumprod(x.tensor, axis)),
    "cumsum": lambda x, axis: Recorded(scan.cumsum(x.tensor, axis)),
    "dot": lambda x, y: linear.matmul.raw(x, y),
    "max": _max,
    "mean": _mean,
    "min": _min,
    "ravel": lambda x, order="C": _reshape(x, -1),
    "reshape": _reshape,
    "squeeze": _squeeze,
    "sum": _sum,
    "swapaxes": _swapaxes,
    "transpose": _transpose,
}
for name, method in _METHODS.items():
    setattr(Recorded, name, method)
Recorded.T = property(_transpose)  # type: ignore[attr-defined]


# -- NumPy's functions -------------------------------------------------------------------------------


def _where(condition: Any, x: Any, y: Any) -> Any:
    return arithmetic.where.raw(_plain(condition), x, y)


def _clip(x: Any, low: Any = None, high: Any = None) -> Any:
    y = x if low is None else arithmetic.maximum.raw(x, low)
    return y if high is None else arithmetic.minimum.raw(y, high)


def _tensors(arrays: Any) -> list[Any]:
    from dtrain.autograd import Tensor

    return [a.tensor if isinstance(a, Recorded) else Tensor(a) for a in arrays]


def _expand_dims(x: Any, axis: Any) -> Any:
    axes = axis if isinstance(axis, tuple) else (axis,)
    ndim = x.ndim + len(axes)
    places = {a % ndim for a in axes}
    old = iter(x.shape)
    return _reshape(x, tuple(1 if i in places else next(old) for i in range(ndim)))


def _moveaxis(x: Any, source: int, destination: int) -> Any:
    order = [i for i in range(x.ndim) if i != source % x.ndim]
    order.insert(destination % x.ndim, source % x.ndim)
    return Recorded(shape.permute(x.tensor, *order))


def _like(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, *args, **kwargs: function(_plain(x), *args, **kwargs)


def _split(x: Any, where: Any, axis: int = 0) -> Any:
    ends = [int(e) for e in where]
    sizes = np.diff([0, *ends, x.shape[axis]]).tolist()
    return [Recorded(t) for t in shape.split(x.tensor, sizes, axis)]


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": arithmetic.abs.raw,
    "asarray": lambda x, dtype=None, order=None: x if dtype is None else x.astype(dtype),
    "ascontiguousarray": lambda x: x,
    "broadcast_to": lambda x, sizes: shape.broadcast_to.raw(x, tuple(sizes)),
    "clip": _clip,
    "concatenate": lambda arrays, axis=0: Recorded(shape.cat(_tensors(arrays), axis)),
    "divide": arithmetic.div.raw,
    "dot": linear.matmul.raw,
    "expand_dims": _expand_dims,
    "flip": lambda x, axis: scan.flip_axis.raw(x, axis),
    "max": _max,
    "mean": _mean,
    "min": _min,
    "moveaxis": _moveaxis,
    "multiply": arithmetic.mul.raw,
    "negative": arithmetic.neg.raw,
    "power": arithmetic.pow.raw,
    "ravel": lambda x: _reshape(x, -1),
    "reshape": _reshape,
    "split": _split,
    "squeeze": _squeeze,
    "stack": lambda arrays, axis=0: Recorded(shape.stack(_tensors(arrays), axis)),
    "subtract": arithmetic.sub.raw,
    "sum": _sum,
    "swapaxes": _swapaxes,
    "tanh": activation.tanh.raw,
    "transpose": _transpose,
    "where": _where,
}
# Ops with NumPy's name and arguments, wherever they are.
_SAME = """
    add arccos arccosh arcsin arcsinh arctan arctanh arctan2 cos cosh exp exp2 expm1 hypot log log10 log1p log2
    logaddexp matmul maximum minimum sin sinc sinh sqrt square tan
"""
# Functions of what has no gradient, or whose gradient is zero: of the plain arrays.
_PLAIN = """
    arange argmax argmin argsort broadcast_shapes ceil empty_like equal errstate flatnonzero floor full_like greater
    greater_equal isfinite isinf isnan isneginf isposinf less less_equal logical_and logical_not logical_or logical_xor
    ndim nonzero not_equal ones_like result_type rint round searchsorted shape sign signbit size trunc zeros_like
"""


class Namespace(ModuleType):
    """Stands in for numpy where arrays are recorded; what it does not know goes to numpy, without recorded arrays."""

    def __init__(self) -> None:
        super().__init__("recorded")
        self.__dict__.update(_FUNCTIONS)
        places = (arithmetic, binary, elementwise, linear, reduction, shape)
        for name in _SAME.split():
            found = next((getattr(p, name) for p in places if hasattr(p, name)), None)
            if found is not None:
                self.__dict__[name] = found.raw
        for name in _PLAIN.split():
            self.__dict__[name] = _of_plain(getattr(np, name))

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        return found if not callable(found) or isinstance(found, type) else _refusing(name, found)


def _of_plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: function(*map(_plain, args), **kwargs)


def _refusing(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(a, Recorded) for a in args):
            raise NoKernelError(f"it uses numpy.{name}")
        return function(*args, **kwargs)

    return call


Recorded.namespace = Namespace()
