"""What stands in for arrays, and for functions that operations return, while a step is noted: see `tape.py`."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from dtrain.autograd.tape import Tape

__all__ = ["Later", "Noted"]


class Noted:
    """Stands in for an array while a step is noted. text: what it is called in the source."""

    __slots__ = ("__weakref__", "tape", "text", "value")

    base = None
    __hash__ = object.__hash__

    def __init__(self, tape: Tape, value: Any, text: str) -> None:
        self.tape, self.value, self.text = tape, value, text

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def ndim(self) -> int:
        return self.value.ndim

    @property
    def size(self) -> int:
        return self.value.size

    @property
    def dtype(self) -> np.dtype:
        return self.value.dtype

    @property
    def itemsize(self) -> int:
        return self.value.itemsize

    def __len__(self) -> int:
        return len(self.value)

    # What NumPy makes of arrays without Python's seeing their values is noted.

    def __getattr__(self, name: str) -> Any:
        if name in _NOTED_METHODS:
            return partial(self._call, getattr(type(self.value), name))
        if name == "T":
            return self._call(np.transpose)
        if name == "tensor" or name.startswith("__cuda"):  # asked of arrays of other kinds
            raise AttributeError(name)
        return getattr(self.look(f"array.{name}"), name)

    def _call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return self.tape.call(function, (self, *args), kwargs)

    def __getitem__(self, key: Any) -> Any:
        if any(getattr(k, "dtype", None) == np.bool_ or isinstance(k, list) for k in _keys(key)):
            return self.look("some elements, of a number that is not always the same")[_real(key)]
        return self._call(operator.getitem, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._call(operator.setitem, key, value)

    def __array_namespace__(self) -> Any:
        return np

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        return self.tape.call(ufunc if method == "__call__" else getattr(ufunc, method), args, kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function.__name__ in _NOTED_FUNCTIONS:
            return self.tape.call(function, args, kwargs)
        self.look(f"numpy.{function.__name__}")
        return function(*map(_real, args), **{name: _real(x) for name, x in kwargs.items()})

    # The rest is not.

    def look(self, how: str) -> Any:
        """The array, for something that is not noted."""
        self.tape.give_up(f"values are looked at outside of dtrain's operations ({how})")
        return self.value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.look("by NumPy"), dtype, copy=copy)


#: Methods and functions that make an array of a shape that follows from those of the arguments.
_METHODS = (
    "all any argmax argmin argsort astype clip copy cumprod cumsum dot max mean min prod ravel reshape round squeeze "
    "std sum swapaxes take transpose var"
)
_FUNCTIONS = (
    "abs all any arange argmax argmin argpartition argsort broadcast_to clip concatenate cumprod cumsum dot empty_like "
    "expand_dims flip full_like isneginf isposinf max mean min moveaxis ones_like prod ravel reshape roll searchsorted "
    "sort split squeeze stack sum swapaxes take take_along_axis transpose tril triu where zeros_like"
)
_NOTED_METHODS, _NOTED_FUNCTIONS = frozenset(_METHODS.split()), frozenset(_FUNCTIONS.split())


def _keys(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _real(x: Any) -> Any:
    if isinstance(x, (list, tuple)):
        return type(x)(map(_real, x))
    return x.value if x.__class__ is Noted else x


def _define(name: str) -> None:
    method = f"__{name}__"
    reflected = name.startswith("r") and hasattr(operator, f"__{name[1:]}__")
    function = getattr(operator, f"__{name[1:]}__" if reflected else method, None)

    def call(self: Noted, *args: Any) -> Any:
        if function is None:
            return getattr(self.look(method), method)(*args)
        return self.tape.call(function, (*args, self) if reflected else (self, *args))

    setattr(Noted, method, call)


_OPERATORS = (
    "abs add and eq floordiv ge gt iadd iand ifloordiv imod imul invert ior isub itruediv ixor le lt matmul mod mul ne "
    "neg or pow radd rand rfloordiv rmatmul rmod rmul ror rpow rsub rtruediv rxor sub truediv xor"
)
for _name in (*_OPERATORS.split(), "bool", "complex", "float", "int", "iter"):
    _define(_name)


def _index(self: Noted) -> int:
    return operator.index(self.look("as an index"))


Noted.__index__ = _index  # type: ignore[attr-defined]


class Later:
    """A function that a call has returned, a pullback: calling it is noted."""

    __slots__ = ("tape", "text", "value")

    def __init__(self, tape: Tape, value: Callable[..., Any], text: str) -> None:
        self.tape, self.value, self.text = tape, value, text

    def __call__(self, *args: Any) -> Any:
        return self.tape.call(self, args)
