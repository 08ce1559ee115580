"""What stands in for arrays, and for functions that operations return, while a step is noted: see `tape.py`."""

from __future__ import annotations

import operator
from collections.abc import Callable
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

    # Gradients are added up between calls.

    def __add__(self, other: Any) -> Any:
        return self.tape.call(operator.add, (self, other))

    def __radd__(self, other: Any) -> Any:
        return self.tape.call(operator.add, (other, self))

    def __iadd__(self, other: Any) -> Any:
        return self.tape.call(operator.iadd, (self, other))

    # The rest is not noted.

    def __getattr__(self, name: str) -> Any:
        if name == "tensor" or name.startswith("__cuda"):  # asked of arrays of other kinds
            raise AttributeError(name)
        return getattr(self.look(f"array.{name}"), name)

    def look(self, how: str) -> Any:
        """The array, for something that is not noted."""
        self.tape.give_up(f"values are looked at outside of dtrain's operations ({how})")
        return self.value

    def __array_namespace__(self) -> Any:
        return np

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.look("by NumPy"), dtype, copy=copy)

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        if "out" in kwargs:
            kwargs["out"] = tuple(map(_real, kwargs["out"]))
        self.look(f"numpy.{ufunc.__name__}")
        return getattr(ufunc, method)(*map(_real, args), **kwargs)


def _real(x: Any) -> Any:
    return x.value if x.__class__ is Noted else x


def _looked_at(name: str) -> None:
    method = f"__{name}__"

    def look(self: Noted, *args: Any) -> Any:
        return getattr(self.look(method), method)(*map(_real, args))

    setattr(Noted, method, look)


_OPERATORS = (
    "abs and bool complex eq float floordiv ge getitem gt iand ifloordiv imod imul index int invert ior isub iter "
    "itruediv ixor le lt matmul mod mul ne neg or pow rand rfloordiv rmatmul rmod rmul ror rpow rsub rtruediv rxor "
    "setitem sub truediv xor"
)
for _name in _OPERATORS.split():
    _looked_at(_name)


class Later:
    """A function that a call has returned, a pullback: calling it is noted."""

    __slots__ = ("tape", "text", "value")

    def __init__(self, tape: Tape, value: Callable[..., Any], text: str) -> None:
        self.tape, self.value, self.text = tape, value, text

    def __call__(self, *args: Any) -> Any:
        return self.tape.call(self, args)
