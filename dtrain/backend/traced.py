"""What a function does with each element of its arrays, written down, for kernels that do it in one pass.

The function is called with stand-ins for its arrays. `cuda/fused.py` makes a kernel of what they have noted, and
`cpu/fused.py` a loop; both round after every operation, as array code does, so the bits are the same. An optimizer's
`update` is written once, for arrays, and is fused whichever it is.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

__all__ = ["COMPARISONS", "NotElementwise", "Step", "Text", "Trace", "traced"]

COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")  # their results are truths


class NotElementwise(AttributeError, TypeError):
    """The function does what cannot be written down."""


class Step(NamedTuple):
    """v3 = op(operands). Names are a0 and so on for elements of the arrays, s0 for numbers, v0 for results of steps.

    op: add, sub, mul, div, max, min (of NaN where either is), neg, abs, sqrt, sign, copy; one of COMPARISONS; where,
    which begins with a truth.
    """

    value: str
    op: str
    operands: tuple[str, ...]


class Text(NamedTuple):
    """Steps; of arrays by number, what is written into which, and which are read."""

    steps: tuple[Step, ...]
    written: tuple[tuple[int, str], ...]
    read: frozenset[int]


def traced(function: Callable[..., None], arrays: tuple[Any, ...]) -> Trace:
    """What function(*arrays) does, arrays being 1-D, of one dtype and length.

    Raises NotElementwise where it does more than arithmetic with them, or they are of other dtypes than float32 and
    float64.
    """
    first = arrays[0]
    if first.dtype.kind != "f" or first.itemsize < 4 or any(a.dtype != first.dtype for a in arrays):
        raise NotElementwise(f"arrays in {first.dtype}")
    trace = Trace(first.dtype, len(first), len(arrays))
    try:
        function(*trace.arrays)
    except NotElementwise:
        raise
    except TypeError as error:  # NumPy's functions, and Python's operators, say so of the stand-ins
        raise NotElementwise(str(error)) from error
    return trace


class Trace:
    """What is done with so many arrays. numbers: the values of s0 and so on."""

    def __init__(self, dtype: np.dtype, n: int, count: int) -> None:
        self.dtype, self.shape = dtype, (n,)
        self.steps: list[Step] = []
        self.numbers: list[float] = []
        self.read: set[int] = set()
        self.arrays = [_Traced(self, None, i) for i in range(count)]

    def text(self) -> Text:
        """All of it but the numbers: what a kernel is made from, for all calls that differ in these only."""
        written = tuple((i, a.value) for i, a in enumerate(self.arrays) if a.value is not None)
        return Text(tuple(self.steps), written, frozenset(self.read))

    def step(self, op: str, *operands: Any) -> _Traced:
        names = tuple(map(self._name, operands))
        value = f"v{len(self.steps)}"
        self.steps.append(Step(value, op, names))
        return _Traced(self, value)

    def _name(self, x: Any) -> str:
        if isinstance(x, _Traced):
            return x.read()
        weak = isinstance(x, (int, float)) and not isinstance(x, (bool, np.generic))  # takes the arrays' dtype
        if not weak and not isinstance(x, self.dtype.type):
            raise NotElementwise(f"{type(x).__name__} among arrays of {self.dtype}")
        self.numbers.append(float(x))
        return f"s{len(self.numbers) - 1}"


class _Traced:
    """A stand-in for an array: one of those that were given, or a result."""

    ndim = 1
    __hash__ = None  # type: ignore[assignment]
    __array_ufunc__ = None

    def __init__(self, trace: Trace, value: str | None, number: int | None = None) -> None:
        self.trace, self.value, self.number = trace, value, number
        self.dtype, self.shape = trace.dtype, trace.shape

    def read(self) -> str:
        if self.value is None:  # as it was given; arrays are written at the end only
            assert self.number is not None
            self.trace.read.add(self.number)
            return f"a{self.number}"
        return self.value

    def __array_namespace__(self) -> Any:
        return _NAMES

    def __getattr__(self, name: str) -> Any:
        raise NotElementwise(name)

    def astype(self, dtype: Any, copy: bool = True) -> _Traced:
        if np.dtype(dtype) != self.dtype:
            raise NotElementwise(f"astype({dtype})")
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        if key is not Ellipsis:
            raise NotElementwise("a part of an array")
        self.value = self.trace.step("copy", value).value

    def __neg__(self) -> _Traced:
        return self.trace.step("neg", self)

    def __abs__(self) -> _Traced:
        return self.trace.step("abs", self)

    def set_(self, value: _Traced) -> _Traced:
        self.value = value.value
        return self


def _operator(name: str, op: str) -> None:
    def forward(self: _Traced, other: Any) -> _Traced:
        return self.trace.step(op, self, other)

    def backward(self: _Traced, other: Any) -> _Traced:
        return self.trace.step(op, other, self)

    def in_place(self: _Traced, other: Any) -> _Traced:
        return self.set_(forward(self, other))

    setattr(_Traced, f"__{name}__", forward)
    if name not in COMPARISONS:
        setattr(_Traced, f"__r{name}__", backward)
        setattr(_Traced, f"__i{name}__", in_place)


for _name in ("add", "sub", "mul", *COMPARISONS):
    _operator(_name, _name)
_operator("truediv", "div")


def _refused(self: Any, *args: Any) -> Any:
    raise NotElementwise("a value is asked for")


for _name in ("bool", "float", "int", "index", "len", "iter", "getitem", "pow", "matmul", "array", "mod", "floordiv"):
    setattr(_Traced, f"__{_name}__", _refused)


def _function(op: str) -> Callable[..., _Traced]:
    def call(*operands: Any, out: _Traced | None = None) -> _Traced:
        made = _trace_of(operands).step(op, *operands)
        return made if out is None else out.set_(made)

    return call


def _trace_of(operands: tuple[Any, ...]) -> Trace:
    return next(x.trace for x in operands if isinstance(x, _Traced))


def _square(x: Any, out: _Traced | None = None) -> _Traced:
    return _NAMES.multiply(x, x, out=out)


def _clip(x: Any, low: Any, high: Any, out: _Traced | None = None) -> _Traced:
    return _NAMES.minimum(_NAMES.maximum(x, low), high, out=out)


class _Names(SimpleNamespace):
    def __getattr__(self, name: str) -> Any:
        raise NotElementwise(name)


#: What `xp_of` gives for these arrays.
_NAMES = _Names(
    sqrt=_function("sqrt"), abs=_function("abs"), sign=_function("sign"), square=_square, clip=_clip,
    add=_function("add"), subtract=_function("sub"), multiply=_function("mul"), divide=_function("div"),
    maximum=_function("max"), minimum=_function("min"), where=_function("where"),
)  # fmt: skip
