"""Products of matrices by cuBLASLt, called by way of ctypes. https://docs.nvidia.com/cuda/cublas/#using-the-cublaslt-api

The library counts columns first: what lies here as C = A B is C^T = B^T A^T to it, so the second matrix is its first.
How a product of given shapes is computed is asked once and kept (`_Plan`). The same product of the same numbers has
the same bits in each run on GPUs of one kind.
"""

from __future__ import annotations

import ctypes
import math
import threading
import warnings
from collections.abc import Sequence
from ctypes import byref, c_double, c_float, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from dtrain.backend.cuda.elementwise import rows_of
from dtrain.backend.halves import bfloat16
from dtrain.backend.precision import get_float32_matmul_precision

__all__ = ["DTYPES", "load", "product", "why_not"]

#: cudaDataType_t
DTYPES = {np.dtype(np.float32): 0, np.dtype(np.float64): 1, np.dtype(np.float16): 2, bfloat16: 14}
# cublasComputeType_t
_IN_FLOAT32, _IN_FLOAT64, _IN_TF32 = 68, 70, 77
# cublasLtMatmulDescAttributes_t, and cublasLtEpilogue_t
_TURN_A, _TURN_B, _EPILOGUE, _BIAS, _BIAS_DTYPE = 3, 4, 7, 8, 26
_ADD_BIAS = 4
# cublasLtMatrixLayoutAttribute_t
_COUNT, _STEP = 5, 6
# cublasLtMatmulPreferenceAttributes_t
_WORKSPACE, _ALIGNMENTS = 1, (5, 6, 7, 8)
_NOT_SUPPORTED = 15
# Bytes that an algorithm may use beside: what NVIDIA advises for H100, and older GPUs need less.
WORKSPACE = 32 << 20
# Of how many multiplications on.
_LARGE = 1 << 28


def product(x: Any, y: Any, bias: Any = None, out: Any = None) -> Any:
    """x @ y + bias, in x's dtype, sums in float32 at least; None where the library has no way to compute it.

    x: (..., I, K), y: (..., K, J) of one of DTYPES, bias: (J,) -> (..., I, J), into `out` if it is given
    """
    import cupy

    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    (i, k), j, many = x.shape[-2:], y.shape[-1], math.prod(batch)
    if out is None and not batch and x.itemsize == 2 and _is_worth_padding(i, k, j):
        return product(_padded(x), _padded(y), None if bias is None else _padded(bias[None])[0])[:i, :j]
    out = cupy.empty((*batch, i, j), x.dtype) if out is None else out
    if not out.size:
        return out
    if not k:
        out[...] = 0 if bias is None else bias
        return out
    first, second, result = _operand(y, batch), _operand(x, batch), _operand(out, batch)
    if result.layout[0] or result.array.data.ptr != out.data.ptr:  # no way to write there
        found = product(x, y, bias)
        if found is not None:
            out[...] = found
        return None if found is None else out
    bias = None if bias is None else cupy.ascontiguousarray(bias)
    pointers = first.array.data.ptr, second.array.data.ptr, out.data.ptr
    plan = _plan(
        threading.get_ident(), out.device.id, x.dtype, (i, k, j, many), first.layout, second.layout, result.layout[1:],
        tuple(_alignment(p) for p in pointers), bias is not None, get_float32_matmul_precision(),
    )  # fmt: skip
    if plan.algorithm is None:
        return None
    plan.run(*pointers, None if bias is None else bias.data.ptr)
    return out


class _Operand(NamedTuple):
    """A matrix, or a stack of them, as the library reads it.

    layout: whether it lies column by column; elements from one line to the next; and from one matrix to the next.
    """

    array: Any
    layout: tuple[bool, int, int]


def _is_worth_padding(*sizes: int) -> bool:
    """Whether sizes are made multiples of 8: else large products of two-byte floats take four times as long."""
    return any(n % 8 for n in sizes) and min(sizes) >= 64 and math.prod(sizes) >= _LARGE


def _padded(x: Any) -> Any:
    """A matrix with zeros behind its rows and columns, up to multiples of 8; it lies by rows or columns, as x does."""
    if x.strides[-1] != x.itemsize and x.strides[0] == x.itemsize:
        return _padded(x.T).T
    rows, columns = (-(-n // 8) * 8 for n in x.shape)
    return x if (rows, columns) == x.shape and not x.strides[0] % 16 else rows_of(x, x.dtype, rows, columns)


def _operand(x: Any, batch: Sequence[int]) -> _Operand:
    import cupy

    *own, rows, columns = x.shape
    if math.prod(own) == 1:
        x = x.reshape(rows, columns)
    else:
        x = cupy.broadcast_to(x, (*batch, rows, columns)) if tuple(own) != tuple(batch) else x
        x = x.reshape(-1, rows, columns)  # a copy, where no one step leads from matrix to matrix
    size, (rows, columns) = x.itemsize, x.shape[-2:]
    *_, down, along = x.strides
    by_rows = (along == size or columns == 1) and (rows == 1 or down >= columns * size)
    by_columns = (down == size or rows == 1) and (columns == 1 or along >= rows * size)
    if not (by_rows or by_columns) or any(stride < 0 or stride % size for stride in x.strides):
        x, by_rows = cupy.ascontiguousarray(x), True
    *step, down, along = (stride // size for stride in x.strides)
    length, lines, line = (columns, rows, down) if by_rows else (rows, columns, along)
    return _Operand(x, (not by_rows, line if lines > 1 else length, step[0] if step else 0))


def _alignment(pointer: int) -> int:
    """The largest power of two that divides an address, up to 256."""
    return min(pointer & -pointer, 256)


class _Plan:
    """How a product is computed. `algorithm`: None where there is no way."""

    def __init__(
        self,
        device: int,
        dtype: Any,
        sizes: tuple[int, int, int, int],
        first: tuple[bool, int, int],
        second: tuple[bool, int, int],
        result: tuple[int, int],
        alignments: tuple[int, ...],
        has_bias: bool,
        precision: str,
    ) -> None:
        i, k, j, many = sizes
        code, double = DTYPES[dtype], dtype == np.float64
        compute = _IN_FLOAT64 if double else _IN_FLOAT32
        if dtype == np.float32 and precision != "highest":
            compute = _IN_TF32
        self._one: Any
        self._zero: Any
        self._one, self._zero = (c_double(1), c_double(0)) if double else (c_float(1), c_float(0))
        self._library, self._handle = _of_device(device)
        self._made: list[tuple[str, c_void_p]] = []
        self._operation = self._make("MatmulDesc", c_int32(compute), c_int32(1 if double else 0))
        self._set("MatmulDesc", self._operation, _TURN_A, c_int32(first[0]))
        self._set("MatmulDesc", self._operation, _TURN_B, c_int32(second[0]))
        if has_bias:
            self._set("MatmulDesc", self._operation, _EPILOGUE, c_uint32(_ADD_BIAS))
            self._set("MatmulDesc", self._operation, _BIAS_DTYPE, c_int32(code))
        # In columns, as the library counts: those of the first are (j, k), turned (k, j).
        self._a = self._layout(code, (k, j) if first[0] else (j, k), first[1], many, first[2])
        self._b = self._layout(code, (i, k) if second[0] else (k, i), second[1], many, second[2])
        self._c = self._layout(code, (j, i), result[0], many, result[1])
        preference = self._make("MatmulPreference")
        self._set("MatmulPreference", preference, _WORKSPACE, c_uint64(WORKSPACE))
        for name, alignment in zip(_ALIGNMENTS, (*alignments, alignments[-1]), strict=True):
            self._set("MatmulPreference", preference, name, c_uint32(alignment))
        found, count = _Found(), c_int32(0)
        status = self._library.cublasLtMatmulAlgoGetHeuristic(
            self._handle, self._operation, self._a, self._b, self._c, self._c, preference, c_int32(1), byref(found),
            byref(count),
        )  # fmt: skip
        if status != _NOT_SUPPORTED:
            _check(status, "cublasLtMatmulAlgoGetHeuristic")
        self.algorithm = found if status == 0 and count.value and found.state == 0 else None

    def run(self, first: int, second: int, out: int, bias: int | None) -> None:
        """Put the product on the current stream."""
        import cupy

        if bias is not None:
            self._set("MatmulDesc", self._operation, _BIAS, c_uint64(bias))
        assert self.algorithm is not None
        nbytes = self.algorithm.workspace
        workspace = cupy.empty(nbytes, np.uint8) if nbytes else None  # in the order of the stream others get it next
        status = self._library.cublasLtMatmul(
            self._handle, self._operation, byref(self._one), c_void_p(first), self._a, c_void_p(second), self._b,
            byref(self._zero), c_void_p(out), self._c, c_void_p(out), self._c, byref(self.algorithm),
            c_void_p(None if workspace is None else workspace.data.ptr), c_size_t(nbytes),
            c_void_p(cupy.cuda.get_current_stream().ptr),
        )  # fmt: skip
        _check(status, "cublasLtMatmul")

    def _layout(self, code: int, shape: tuple[int, int], line: int, many: int, step: int) -> c_void_p:
        layout = self._make("MatrixLayout", c_int32(code), c_uint64(shape[0]), c_uint64(shape[1]), c_int64(line))
        if many > 1:
            self._set("MatrixLayout", layout, _COUNT, c_int32(many))
            self._set("MatrixLayout", layout, _STEP, c_int64(step))
        return layout

    def _make(self, kind: str, *args: Any) -> c_void_p:
        made = c_void_p()
        _check(getattr(self._library, f"cublasLt{kind}Create")(byref(made), *args), kind)
        self._made.append((kind, made))
        return made

    def _set(self, kind: str, of: c_void_p, name: int, value: Any) -> None:
        size = c_size_t(ctypes.sizeof(value))
        _check(getattr(self._library, f"cublasLt{kind}SetAttribute")(of, c_int32(name), byref(value), size), kind)

    def __del__(self) -> None:
        for kind, made in getattr(self, "_made", ()):
            getattr(self._library, f"cublasLt{kind}Destroy")(made)


class _Found(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t. The algorithm comes first, so that its address is the algorithm's."""

    _fields_ = (
        ("algorithm", c_uint64 * 8), ("workspace", c_size_t), ("state", c_int32), ("waves", c_float),
        ("reserved", c_int32 * 4),
    )  # fmt: skip
    workspace: int
    state: int


@lru_cache(maxsize=2048)
def _plan(thread: int, *how: Any) -> _Plan:
    """Of each thread's own: a plan holds the bias of the product that is under way."""
    return _Plan(*how)


@cache
def _of_device(device: int) -> tuple[Any, c_void_p]:
    library, handle = load(), c_void_p()
    _check(library.cublasLtCreate(byref(handle)), "cublasLtCreate")
    return library, handle


def load() -> Any:
    """The library that belongs to CuPy's cuBLAS. Raises OSError or ImportError where it is not to be had."""
    import cupy

    cupy.cuda.get_cublas_handle()  # it is loaded with that, from where CuPy finds it
    return ctypes.CDLL(f"libcublasLt.so.{cupy.cuda.runtime.runtimeGetVersion() // 1000}")


@cache
def why_not() -> str | None:
    """Why CuPy's own products are used in the place of these; None where they are not. A small product is tried."""
    import cupy

    try:
        x, y, b = (cupy.asarray(np.arange(n, dtype=np.float32)) for n in (6, 12, 4))
        z = product(x.reshape(2, 3), y.reshape(3, 4), b)
        reason = None if z is not None and z.get().tolist() == [[20, 24, 28, 32], [56, 69, 82, 95]] else "it is wrong"
    except (OSError, ImportError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}"
    if reason is not None:
        warnings.warn(f"cuBLASLt cannot be used, and products are CuPy's own: {reason}", stacklevel=2)
    return reason


def _check(status: int, what: str) -> None:
    if status:
        raise RuntimeError(f"{what} of cuBLASLt failed with status {status} (see cublasStatus_t)")
