"""A stand-in for the library cuBLASLt, over NumPy: takes what ctypes would give it, and checks all of it.

What the real one says of sizes, leading dimensions, alignment and life is an AssertionError here, and so are matrices
that reach beyond their array. `seen` lists the products that were asked for.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np

from dtrain.backend.halves import bfloat16
from tests.cuda_on_cpu import cupy

_DTYPES = {0: np.dtype(np.float32), 1: np.dtype(np.float64), 2: np.dtype(np.float16), 14: bfloat16}
# Bytes of each attribute: of operations, layouts, preferences.
_SIZES = {
    "MatmulDesc": {3: 4, 4: 4, 7: 4, 8: 8, 26: 4},
    "MatrixLayout": {5: 4, 6: 8},
    "MatmulPreference": {1: 8, 5: 4, 6: 4, 7: 4, 8: 4},
}
WORKSPACE = 1024


class Library:
    """Functions of the library by their names; status 0 is success."""

    def __init__(self) -> None:
        self.things: dict[int, Any] = {}
        self.seen: list[SimpleNamespace] = []

    def __getattr__(self, name: str) -> Any:
        kind = name.removeprefix("cublasLt")
        for end, method in (("Create", self._create), ("SetAttribute", self._set), ("Destroy", self._destroy)):
            if kind.endswith(end) and kind != end:
                return lambda *args: method(kind.removesuffix(end), *args)
        raise AttributeError(f"{name}: undefined symbol")

    def cublasLtCreate(self, handle: Any) -> int:  # noqa: N802
        handle._obj.value = 1
        return 0

    def _create(self, kind: str, made: Any, *args: Any) -> int:
        assert kind in _SIZES
        wanted = {"MatmulDesc": [ctypes.c_int32] * 2, "MatmulPreference": []}
        layout = [ctypes.c_int32, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64]
        assert [type(a) for a in args] == wanted.get(kind, layout)
        made._obj.value = 1000 + len(self.things)
        self.things[made._obj.value] = SimpleNamespace(
            kind=kind, args=[a.value for a in args], attributes={5: 1, 6: 0} if kind == "MatrixLayout" else {}
        )
        return 0

    def _destroy(self, kind: str, made: Any) -> int:
        assert self.things[made.value].kind == kind
        self.things[made.value] = None
        return 0

    def _set(self, kind: str, of: Any, name: Any, value: Any, size: Any) -> int:
        assert self.things[of.value].kind == kind
        assert size.value == ctypes.sizeof(value._obj) == _SIZES[kind][name.value]
        self.things[of.value].attributes[name.value] = value._obj.value
        return 0

    def cublasLtMatmulAlgoGetHeuristic(  # noqa: N802
        self, handle: Any, operation: Any, a: Any, b: Any, c: Any, d: Any, preference: Any, most: Any, found: Any,
        count: Any,
    ) -> int:  # fmt: skip
        assert handle.value == 1 and most.value == 1 and ctypes.sizeof(found._obj) == 96
        given = self.things[preference.value].attributes
        assert set(given) == {1, 5, 6, 7, 8} and given[1] >= WORKSPACE
        compute, scale = self.things[operation.value].args
        layouts = [self.things[layout.value] for layout in (a, b, d)]
        dtype = layouts[0].args[0]
        assert {layout.args[0] for layout in layouts} == {dtype}
        assert (compute, scale) in ([(70, 1)] if dtype == 1 else [(68, 0), (77, 0)] if dtype == 0 else [(68, 0)])
        if self.refuses(dtype):
            return 15
        result = found._obj
        result.algorithm[0], result.workspace, result.state = operation.value, WORKSPACE, 0
        result.algorithm[1:5] = [given[i] for i in (5, 6, 7, 8)]
        count._obj.value = 1
        return 0

    def refuses(self, dtype: int) -> bool:
        """Whether there is no way for matrices of a dtype; tests say otherwise."""
        return False

    def cublasLtMatmul(  # noqa: N802
        self, handle: Any, operation: Any, alpha: Any, a: Any, a_layout: Any, b: Any, b_layout: Any, beta: Any, c: Any,
        c_layout: Any, d: Any, d_layout: Any, algorithm: Any, workspace: Any, nbytes: Any, stream: Any,
    ) -> int:  # fmt: skip
        of, algorithm = self.things[operation.value].attributes, algorithm._obj.algorithm
        assert algorithm[0] == operation.value, "the algorithm was found for another product"
        assert c.value == d.value and c_layout.value == d_layout.value and (alpha._obj.value, beta._obj.value) == (1, 0)
        for pointer, alignment in zip((a, b, c, d), algorithm[1:5], strict=True):
            assert pointer.value % alignment == 0
        _array_at(workspace.value, nbytes.value)
        assert nbytes.value == WORKSPACE and workspace.value % 16 == 0 and stream.value is None
        keep: list[Any] = []
        first, second, out = (
            _matrices(pointer.value, self.things[layout.value], keep)
            for pointer, layout in ((a, a_layout), (b, b_layout), (d, d_layout))
        )
        first, second = first.swapaxes(1, 2) if of[3] else first, second.swapaxes(1, 2) if of[4] else second
        bias = None
        if 7 in of:
            assert of[7] == 4 and of[26] == self.things[d_layout.value].args[0]
            vector = SimpleNamespace(args=[of[26], out.shape[1], 1, out.shape[1]], attributes={5: 1, 6: 0})
            bias = _matrices(of[8], vector, keep)
        self.seen.append(
            SimpleNamespace(
                shape=out.shape, inner=first.shape[2], bias=bias is not None, dtype=out.dtype,
                lines=[self.things[layout.value].args[3] for layout in (a_layout, b_layout, d_layout)],
            )
        )  # fmt: skip
        wide = np.float64 if out.dtype == np.float64 else np.float32

        def work(keep: list[Any] = keep) -> None:
            with np.errstate(all="ignore"):
                result = first.astype(wide) @ second.astype(wide)
                out[...] = (result if bias is None else result + bias.astype(wide)).astype(out.dtype)

        cupy._recorded(work)
        return 0


def _array_at(pointer: int, nbytes: int) -> np.ndarray | None:
    """The array of this thread in whose memory these bytes lie; None where it may be another thread's."""
    for whole in list(cupy._alive.arrays.values()):
        start = whole.ctypes.data
        if start <= pointer < start + whole.nbytes:
            assert pointer + nbytes <= start + whole.nbytes, "beyond the end of an array"
            return whole
    return None


def _matrices(pointer: int, layout: Any, keep: list[Any]) -> np.ndarray:
    """(count, rows, columns), columns first in memory. What has to live as long is added to `keep`."""
    (code, rows, columns, line), count, step = layout.args, layout.attributes[5], layout.attributes[6]
    dtype = _DTYPES[code]
    size = dtype.itemsize
    assert line >= rows and step >= 0 and pointer % size == 0
    nbytes = ((count - 1) * step + (columns - 1) * line + rows) * size
    keep.append(_array_at(pointer, nbytes))
    flat = np.frombuffer((ctypes.c_uint8 * nbytes).from_address(pointer), np.uint8).view(dtype)
    return np.lib.stride_tricks.as_strided(flat, (count, rows, columns), (step * size, size, line * size))
