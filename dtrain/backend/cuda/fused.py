"""A function that treats each element of its arrays by itself becomes one kernel, in which every array is read once.

The function is called with stand-ins for its arrays, which write down what is done with them. A kernel is made of that,
whose every operation rounds as the array code's does, so its bits are the same; it is compiled once for all calls
that differ in numbers only. So an optimizer's `update` is written once, for arrays, and is fused whichever it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from dtrain.backend import capture
from dtrain.backend.cuda.loader import CTYPES, blocks, compiled, pointer

__all__ = ["each_element"]

_THREADS = 256


class _NotElementwise(AttributeError, TypeError):
    """The function does what this cannot write down."""


def each_element(function: Callable[..., None], *arrays: Any, only_if: Any = None) -> None:
    """function(*arrays), which changes some of these 1-D arrays of one dtype and length in place.

    only_if: an array of one truth, without which nothing is done. Where the function does more than arithmetic with the
    arrays, or they are of other dtypes than float32 and float64, it is run as it is, and such a truth is waited for.
    """

    def as_it_is() -> None:
        if only_if is None or bool(only_if):
            function(*arrays)

    first = arrays[0]
    if first.dtype.kind != "f" or first.itemsize < 4 or any(a.dtype != first.dtype for a in arrays):
        capture.refuse(f"an update in {first.dtype} is array code")
        as_it_is()
        return
    trace = _Trace(first.dtype, len(first), len(arrays))
    try:
        function(*trace.arrays)
    except _NotElementwise as error:
        capture.refuse(f"an update is more than arithmetic: {error}")
        as_it_is()
        return
    refill = capture.refill()
    if refill is not None:
        if trace.numbers:
            refill.take(trace.text(), trace.numbers)
        return
    if first.size:
        packs = first.size * first.itemsize // 16 if not any(a.data.ptr % 16 for a in arrays) else 0
        record = capture.present() if trace.numbers else None
        if capture.rehearsing():
            _kernel(CTYPES[first.dtype], trace.text(), len(arrays), len(trace.numbers), bool(trace.numbers))
        run = _kernel(CTYPES[first.dtype], trace.text(), len(arrays), len(trace.numbers), record is not None)
        pieces = -(-first.size * first.itemsize // 16)
        numbers = [first.dtype.type(n) for n in trace.numbers]
        if record is not None:  # the next step's may be others
            numbers = [record.room(trace.text(), trace.numbers, first.dtype)]
        sizes = np.int64(first.size), np.int64(packs)
        run(blocks(pieces, _THREADS), (_THREADS,), (*arrays, *sizes, pointer(only_if), *numbers))


_KERNEL = """
#include "common.cuh"

typedef TYPE T;
__device__ __forceinline__ T sign_of(T x) { return x > T(0) ? T(1) : x < T(0) ? T(-1) : x; }
__device__ __forceinline__ T nan_min(T a, T b) { return (a < b || a != a) ? a : b; }

__device__ __forceinline__ void one(ELEMENTS NUMBERS) {
STEPS
}

__global__ void fused(ARRAYS index_t n, index_t packs, const bool* only_if GIVEN) {
  if (only_if && !*only_if) return;
  const index_t first = blockIdx.x * index_t(blockDim.x) + threadIdx.x, step = index_t(gridDim.x) * blockDim.x;
  for (index_t i = first; i < packs; i += step) {
READ
#pragma unroll
    for (int k = 0; k < Pack<T>::SIZE; ++k) one(PARTS PASSED);
WRITE
  }
  for (index_t i = packs * Pack<T>::SIZE + first; i < n; i += step) one(SINGLE PASSED);
}
"""


#: Steps, the numbers of the arrays that are read, and of those that are written.
Text = tuple[str, frozenset[int], frozenset[int]]


@cache
def _kernel(T: str, text: Text, arrays: int, numbers: int, pointed: bool) -> Callable[..., None]:
    # Products and sums are not contracted: each is rounded, as in array code.
    return compiled(_source(T, text, arrays, numbers, pointed), "fused", ("-fmad=false",))


def _source(T: str, text: Text, arrays: int, numbers: int, pointed: bool) -> str:
    """pointed: the numbers lie in memory."""
    steps, read, written = text
    each = range(arrays)
    parts = {
        "TYPE": T,
        "ELEMENTS": ", ".join(f"T& a{i}" for i in each),
        "ARRAYS": " ".join(f"T* a{i}," for i in each),
        "NUMBERS": "".join(f", T s{i}" for i in range(numbers)),
        "PASSED": "".join(f", s[{i}]" if pointed else f", s{i}" for i in range(numbers)),
        "GIVEN": ", const T* s" if pointed else "".join(f", T s{i}" for i in range(numbers)),
        "STEPS": steps,
        # What is not read may be left alone, and what is not written is not written back.
        "READ": "\n".join(
            f"    Pack<T> p{i}" + (f" = reinterpret_cast<const Pack<T>*>(a{i})[i];" if i in read else ";") for i in each
        ),
        "WRITE": "\n".join(f"    reinterpret_cast<Pack<T>*>(a{i})[i] = p{i};" for i in each if i in written),
        "PARTS": ", ".join(f"p{i}.at[k]" for i in each),
        "SINGLE": ", ".join(f"a{i}[i]" for i in each),
    }
    code = _KERNEL
    for name, part in parts.items():
        code = code.replace(name, part)
    return code


class _Trace:
    """What is done with some arrays."""

    def __init__(self, dtype: np.dtype, n: int, count: int) -> None:
        self.dtype, self.shape = dtype, (n,)
        self.steps: list[str] = []
        self.numbers: list[float] = []
        self.read: set[int] = set()
        self.arrays = [_Traced(self, None, i) for i in range(count)]

    def text(self) -> Text:
        written = {i: a.value for i, a in enumerate(self.arrays) if a.value is not None}
        steps = [*self.steps, *(f"  a{i} = {value};" for i, value in written.items())]
        return "\n".join(steps), frozenset(self.read), frozenset(written)

    def step(self, form: str, *operands: Any, truth: bool = False) -> _Traced:
        value = f"v{len(self.steps)}"
        expression = form.format(*map(self.name, operands))
        self.steps.append(f"  const {'bool' if truth else 'T'} {value} = {expression};")
        return _Traced(self, value)

    def name(self, x: Any) -> str:
        if isinstance(x, _Traced):
            return x.read()
        weak = isinstance(x, (int, float)) and not isinstance(x, (bool, np.generic))  # takes the arrays' dtype
        if not weak and not isinstance(x, self.dtype.type):
            raise _NotElementwise(f"{type(x).__name__} among arrays of {self.dtype}")
        self.numbers.append(float(x))
        return f"s{len(self.numbers) - 1}"


class _Traced:
    """A stand-in for an array: one of those that were given, or a result."""

    ndim = 1
    __hash__ = None  # type: ignore[assignment]
    __array_ufunc__ = None

    def __init__(self, trace: _Trace, value: str | None, number: int | None = None) -> None:
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
        raise _NotElementwise(name)

    def astype(self, dtype: Any, copy: bool = True) -> _Traced:
        if np.dtype(dtype) != self.dtype:
            raise _NotElementwise(f"astype({dtype})")
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        if key is not Ellipsis:
            raise _NotElementwise("a part of an array")
        self.value = self.trace.step("{}", value).value

    def __neg__(self) -> _Traced:
        return self.trace.step("-{}", self)

    def __abs__(self) -> _Traced:
        return self.trace.step("fabs({})", self)

    def _set(self, value: _Traced) -> _Traced:
        self.value = value.value
        return self


def _operator(name: str, form: str, truth: bool = False) -> None:
    def forward(self: _Traced, other: Any) -> _Traced:
        return self.trace.step(form, self, other, truth=truth)

    def backward(self: _Traced, other: Any) -> _Traced:
        return self.trace.step(form, other, self)

    def in_place(self: _Traced, other: Any) -> _Traced:
        return self._set(forward(self, other))

    setattr(_Traced, f"__{name}__", forward)
    if not truth:
        setattr(_Traced, f"__r{name}__", backward)
        setattr(_Traced, f"__i{name}__", in_place)


for _name, _sign in (("add", "+"), ("sub", "-"), ("mul", "*"), ("truediv", "/")):
    _operator(_name, f"{{}} {_sign} {{}}")
for _name, _sign in (("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="), ("eq", "=="), ("ne", "!=")):
    _operator(_name, f"{{}} {_sign} {{}}", truth=True)


def _refused(self: Any, *args: Any) -> Any:
    raise _NotElementwise("a value is asked for")


for _name in ("bool", "float", "int", "index", "len", "iter", "getitem", "pow", "matmul", "array", "mod", "floordiv"):
    setattr(_Traced, f"__{_name}__", _refused)


def _function(form: str) -> Callable[..., _Traced]:
    def call(*operands: Any, out: _Traced | None = None) -> _Traced:
        trace = next(x.trace for x in operands if isinstance(x, _Traced))
        made = trace.step(form, *operands)
        return made if out is None else out._set(made)

    return call


class _Names(SimpleNamespace):
    def __getattr__(self, name: str) -> Any:
        raise _NotElementwise(name)


#: What `xp_of` gives for these arrays.
_NAMES = _Names(
    sqrt=_function("sqrt({})"), abs=_function("fabs({})"), sign=_function("sign_of({})"), square=_function("{0} * {0}"),
    add=_function("{} + {}"), subtract=_function("{} - {}"), multiply=_function("{} * {}"), divide=_function("{} / {}"),
    maximum=_function("nan_max({}, {})"), minimum=_function("nan_min({}, {})"), where=_function("{} ? {} : {}"),
    clip=_function("nan_min(nan_max({}, {}), {})"),
)  # fmt: skip
