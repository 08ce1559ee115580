"""A function that treats each element of its arrays by itself becomes one kernel, in which every array is read once.

See `backend.traced`. A kernel is compiled once for all calls that differ in numbers only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from dtrain.backend import capture
from dtrain.backend.cuda.loader import CTYPES, blocks, compiled, pointer
from dtrain.backend.traced import COMPARISONS, NotElementwise, Step, Text, traced

__all__ = ["each_element"]

_THREADS = 256


def each_element(function: Callable[..., None], *arrays: Any, only_if: Any = None) -> None:
    """function(*arrays), which changes some of these 1-D arrays of one dtype and length in place.

    only_if: an array of one truth, without which nothing is done. Where the function does more than arithmetic with the
    arrays, or they are of other dtypes than float32 and float64, it is run as it is, and such a truth is waited for.
    """
    try:
        trace = traced(function, arrays)
    except NotElementwise as error:
        capture.refuse(f"an update is array code: {error}")
        if only_if is None or bool(only_if):
            function(*arrays)
        return
    first = arrays[0]
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
__device__ __forceinline__ T sign_of(T x) { return x > T(0) ? T(1) : x < T(0) ? T(-1) : x == T(0) ? T(0) : x; }
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
_FORMS = {
    "add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "div": "{} / {}", "neg": "-{}", "abs": "fabs({})",
    "sqrt": "sqrt({})", "sign": "sign_of({})", "max": "nan_max({}, {})", "min": "nan_min({}, {})", "copy": "{}",
    "lt": "{} < {}", "le": "{} <= {}", "gt": "{} > {}", "ge": "{} >= {}", "eq": "{} == {}", "ne": "{} != {}",
    "where": "{} ? {} : {}",
}  # fmt: skip


@cache
def _kernel(T: str, text: Text, arrays: int, numbers: int, pointed: bool) -> Callable[..., None]:
    # Products and sums are not contracted: each is rounded, as in array code.
    return compiled(_source(T, text, arrays, numbers, pointed), "fused", ("-fmad=false",))


def _source(T: str, text: Text, arrays: int, numbers: int, pointed: bool) -> str:
    """pointed: the numbers lie in memory."""
    each, written = range(arrays), dict(text.written)
    steps = [_line(step) for step in text.steps] + [f"  a{i} = {value};" for i, value in written.items()]
    parts = {
        "TYPE": T,
        "ELEMENTS": ", ".join(f"T& a{i}" for i in each),
        "ARRAYS": " ".join(f"T* a{i}," for i in each),
        "NUMBERS": "".join(f", T s{i}" for i in range(numbers)),
        "PASSED": "".join(f", s[{i}]" if pointed else f", s{i}" for i in range(numbers)),
        "GIVEN": ", const T* s" if pointed else "".join(f", T s{i}" for i in range(numbers)),
        "STEPS": "\n".join(steps),
        # What is not read may be left alone, and what is not written is not written back.
        "READ": "\n".join(
            f"    Pack<T> p{i}" + (f" = reinterpret_cast<const Pack<T>*>(a{i})[i];" if i in text.read else ";")
            for i in each
        ),
        "WRITE": "\n".join(f"    reinterpret_cast<Pack<T>*>(a{i})[i] = p{i};" for i in each if i in written),
        "PARTS": ", ".join(f"p{i}.at[k]" for i in each),
        "SINGLE": ", ".join(f"a{i}[i]" for i in each),
    }
    code = _KERNEL
    for name, part in parts.items():
        code = code.replace(name, part)
    return code


def _line(step: Step) -> str:
    kind = "bool" if step.op in COMPARISONS else "T"
    return f"  const {kind} {step.value} = {_FORMS[step.op].format(*step.operands)};"
