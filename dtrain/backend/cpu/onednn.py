"""oneDNN, by ctypes: finding the library, and primitives that are made once for each shape and thread.

A primitive is compiled for the shapes and layouts of its arrays and for a number of threads, which takes milliseconds;
each thread keeps those it used last. What a primitive needs between its inputs and outputs lies in one
piece of memory for each thread, which grows to the largest need.

The names of the C functions, without `dnnl_`, and the numbers of their enumerations are those of
https://uxlfoundation.github.io/oneDNN (3.x).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np

from dtrain.backend.halves import bfloat16

__all__ = [
    "BACKWARD", "FEW", "FORWARD", "Arg", "Context", "Descriptor", "Primitive", "Unsupported", "address", "any_layout",
    "context", "laid_out", "library", "moved", "new", "query", "sizes", "strided", "usable", "version",
]  # fmt: skip

PRIMITIVES = 512  # that a thread keeps
FEW = 1 << 12  # elements: what makes one pass over fewer takes NumPy no longer
FORWARD, BACKWARD = 64, 128  # for training; of all gradients


class Unsupported(Exception):
    """oneDNN has no fast code for this."""


class Arg:
    """The places of arrays in a primitive: DNNL_ARG_*."""

    SRC, SRC_1, DST, WEIGHTS, BIAS, SCRATCHPAD, WORKSPACE = 1, 2, 17, 33, 41, 80, 64
    SRC_ITER, SRC_ITER_C, DST_ITER, DST_ITER_C, WEIGHTS_ITER = 2, 3, 18, 19, 34
    MEAN, VARIANCE, SCALE, SHIFT = 49, 50, 51, 52
    DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, DIFF_BIAS, DIFF_SCALE, DIFF_SHIFT = 129, 145, 161, 169, 255, 256
    DIFF_SRC_ITER, DIFF_SRC_ITER_C, DIFF_DST_ITER, DIFF_DST_ITER_C, DIFF_WEIGHTS_ITER = 130, 131, 146, 147, 162


class _Version(ctypes.Structure):
    _fields_ = [("major", ctypes.c_int), ("minor", ctypes.c_int), ("patch", ctypes.c_int)]


class _Argument(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_int), ("memory", ctypes.c_void_p)]


_POINTER, _INT, _SIZES = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64 * 12
_CONVOLUTION = [_POINTER] * 4 + [_SIZES] * 4
_FACTORS, _NORM = [ctypes.c_float] * 2, [ctypes.c_float, ctypes.c_uint]
_FUNCTIONS: dict[str, list[Any]] = {
    "engine_create": [_POINTER, _INT, ctypes.c_size_t],
    "stream_create": [_POINTER, _POINTER, ctypes.c_uint],
    "memory_desc_create_with_strides": [_POINTER, _INT, _SIZES, _INT, _SIZES],
    "memory_desc_create_with_tag": [_POINTER, _INT, _SIZES, _INT, _INT],
    "memory_desc_clone": [_POINTER, _POINTER],
    "memory_desc_destroy": [_POINTER],
    "memory_create": [_POINTER, _POINTER, _POINTER, _POINTER],
    "memory_set_data_handle": [_POINTER, _POINTER],
    "memory_destroy": [_POINTER],
    "primitive_attr_create": [_POINTER],
    "primitive_attr_set_fpmath_mode": [_POINTER, _INT],
    "primitive_attr_set_scratchpad_mode": [_POINTER, _INT],
    "primitive_desc_query": [_POINTER, _INT, _INT, _POINTER],
    "primitive_desc_destroy": [_POINTER],
    "primitive_create": [_POINTER, _POINTER],
    "primitive_execute": [_POINTER, _POINTER, _INT, ctypes.POINTER(_Argument)],
    "primitive_destroy": [_POINTER],
    "matmul_primitive_desc_create": [_POINTER] * 7,
    "binary_primitive_desc_create": [_POINTER, _POINTER, _INT, *[_POINTER] * 4],
    "eltwise_forward_primitive_desc_create": [_POINTER, _POINTER, _INT, _INT, *[_POINTER] * 2, *_FACTORS, _POINTER],
    "eltwise_backward_primitive_desc_create": [_POINTER, _POINTER, _INT, *[_POINTER] * 3, *_FACTORS, *[_POINTER] * 2],
    "batch_normalization_forward_primitive_desc_create": [_POINTER, _POINTER, _INT, *[_POINTER] * 2, *_NORM, _POINTER],
    "batch_normalization_backward_primitive_desc_create":
        [_POINTER, _POINTER, _INT, *[_POINTER] * 3, *_NORM, *[_POINTER] * 2],
    "layer_normalization_forward_primitive_desc_create": [_POINTER, _POINTER, _INT, *[_POINTER] * 3, *_NORM, _POINTER],
    "layer_normalization_backward_primitive_desc_create":
        [_POINTER, _POINTER, _INT, *[_POINTER] * 4, *_NORM, *[_POINTER] * 2],
    "reorder_primitive_desc_create": [_POINTER] * 6,
    "convolution_forward_primitive_desc_create": [_POINTER, _POINTER, _INT, _INT, *_CONVOLUTION, _POINTER],
    "convolution_backward_data_primitive_desc_create":
        [_POINTER, _POINTER, _INT, *_CONVOLUTION[1:], _POINTER, _POINTER],
    "convolution_backward_weights_primitive_desc_create": [_POINTER, _POINTER, _INT, *_CONVOLUTION, _POINTER, _POINTER],
    "pooling_forward_primitive_desc_create":
        [_POINTER, _POINTER, _INT, _INT, *[_POINTER] * 2, *[_SIZES] * 5, _POINTER],
    "pooling_backward_primitive_desc_create":
        [_POINTER, _POINTER, _INT, *[_POINTER] * 2, *[_SIZES] * 5, _POINTER, _POINTER],
    "softmax_forward_primitive_desc_create": [_POINTER, _POINTER, _INT, _INT, *[_POINTER] * 2, _INT, _POINTER],
    "softmax_backward_primitive_desc_create":
        [_POINTER, _POINTER, _INT, *[_POINTER] * 3, _INT, _POINTER, _POINTER],
    "lstm_forward_primitive_desc_create":
        [_POINTER, _POINTER, _INT, _INT, *[_POINTER] * 11, ctypes.c_uint, _POINTER],
    "lbr_gru_forward_primitive_desc_create": [_POINTER, _POINTER, _INT, _INT, *[_POINTER] * 7, ctypes.c_uint, _POINTER],
    "lbr_gru_backward_primitive_desc_create":
        [_POINTER, _POINTER, _INT, _INT, *[_POINTER] * 14, ctypes.c_uint, _POINTER, _POINTER],
    "vanilla_rnn_forward_primitive_desc_create":
        [_POINTER, _POINTER, _INT, _INT, _INT, *[_POINTER] * 7, ctypes.c_uint, *_FACTORS, _POINTER],
    "vanilla_rnn_backward_primitive_desc_create":
        [_POINTER, _POINTER, _INT, _INT, _INT, *[_POINTER] * 14, ctypes.c_uint, *_FACTORS, _POINTER, _POINTER],
    "lstm_backward_primitive_desc_create":
        [_POINTER, _POINTER, _INT, _INT, *[_POINTER] * 22, ctypes.c_uint, _POINTER, _POINTER],
}  # fmt: skip
_QUERY_SCRATCHPAD, _QUERY_NAME = 136, 8
_DTYPES, _ANY = {np.dtype(np.float32): 3, bfloat16: 2}, 1


# -- the library ---------------------------------------------------------------------------------------


def _places() -> Iterator[str]:
    """Where the library may lie: where the linker looks, and in the wheel, which puts it outside of all packages."""
    yield "libdnnl.so.3"
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files("onednn-cpu-gomp") or ():
            if file.name == "libdnnl.so.3":
                yield str(file.locate())


def _load(path: str, kind: type[ctypes.CDLL] = ctypes.CDLL) -> ctypes.CDLL:
    # Its own symbols and its own OpenMP first: another library of the process may bring others of the same names.
    return kind(path, mode=getattr(os, "RTLD_DEEPBIND", 0) | getattr(os, "RTLD_LOCAL", 0))


def _version(lib: ctypes.CDLL) -> tuple[int, int, int]:
    lib.dnnl_version.restype = ctypes.POINTER(_Version)
    v = lib.dnnl_version().contents
    return v.major, v.minor, v.patch


class _Library:
    """The C functions by name. Each raises Unsupported for a status that is not success."""

    def __init__(self, path: str) -> None:
        # Only executing a primitive lets other Python threads run: the rest is over before one could start.
        slow, quick = _load(path), _load(path, ctypes.PyDLL)
        self.version = _version(slow)
        for name, types in _FUNCTIONS.items():
            function = getattr(slow if name == "primitive_execute" else quick, f"dnnl_{name}")
            function.argtypes = types
            function.errcheck = _check
            setattr(self, name, function)
        self.memory_desc_get_size = quick.dnnl_memory_desc_get_size
        self.memory_desc_get_size.argtypes, self.memory_desc_get_size.restype = [_POINTER], ctypes.c_size_t
        self.memory_desc_equal = quick.dnnl_memory_desc_equal
        self.memory_desc_equal.argtypes = [_POINTER, _POINTER]
        # None where the library does not compute with OpenMP.
        self.threads: Callable[[], int] = getattr(quick, "omp_get_max_threads", lambda: 0)
        self.set_threads: Callable[[int], Any] = getattr(quick, "omp_set_num_threads", lambda threads: None)

    def __getattr__(self, name: str) -> Any:  # for the type checker: what __init__ has set is found before
        raise AttributeError(name)


def _check(status: int, function: Any, arguments: Any) -> None:
    if status:
        raise Unsupported(f"{function.__name__} returned status {status}")


@cache
def library() -> _Library | None:
    """oneDNN 3.x, the newest one found; None where there is none, or the environment says DTRAIN_ONEDNN=0."""
    found: list[tuple[tuple[int, int, int], str]] = []
    if os.environ.get("DTRAIN_ONEDNN") != "0":
        for path in _places():
            with contextlib.suppress(OSError, AttributeError):
                found.append((_version(_load(path)), path))
    usable = [(number, path) for number, path in found if number[0] == 3]
    return _Library(max(usable)[1]) if usable else None


def version() -> str | None:
    """The version of the library, as in "3.2.0"; None without one."""
    lib = library()
    return ".".join(map(str, lib.version)) if lib else None


# -- primitives ----------------------------------------------------------------------------------------


def sizes(numbers: Sequence[int]) -> Any:
    """Numbers as C functions want them."""
    return _SIZES(*numbers)


def new(create: Callable[..., Any], *arguments: Any) -> int:
    """What a C function that makes an object puts where its first argument points."""
    made = _POINTER()
    create(ctypes.byref(made), *arguments)
    return made.value or 0


class Descriptor:
    """The shape, dtype and layout of an array. `pointer`: the library's object, which this one destroys."""

    def __init__(self, pointer: int) -> None:
        self.pointer, self._lib = pointer, _needed()
        self.bytes = self._lib.memory_desc_get_size(pointer)

    def same(self, other: Descriptor) -> bool:
        """Whether shape, dtype and layout are the same."""
        return bool(self._lib.memory_desc_equal(self.pointer, other.pointer))

    def __del__(self) -> None:
        self._lib.memory_desc_destroy(self.pointer)


def _needed() -> _Library:
    lib = library()
    if lib is None:
        raise Unsupported("there is no oneDNN")
    return lib


def laid_out(shape: Sequence[int], strides: Sequence[int], dtype: np.dtype) -> Descriptor:
    """An array with these strides, in bytes."""
    steps = [s // dtype.itemsize for s in strides]
    create = _needed().memory_desc_create_with_strides
    return Descriptor(new(create, len(shape), sizes(shape), _DTYPES[dtype], sizes(steps)))


def strided(shape: Sequence[int], dtype: np.dtype, order: Sequence[int] | None = None) -> Descriptor:
    """An array in one piece whose dimensions lie in memory in this order, the outermost first; default: in their own.

    Logical dimensions stay as they are: images have `shape` (N, C, H, W), and channels last is order (0, 2, 3, 1).
    """
    strides, step = [0] * len(shape), dtype.itemsize
    for axis in reversed(order or range(len(shape))):
        strides[axis], step = step, step * shape[axis]
    return laid_out(shape, strides, dtype)


def any_layout(shape: Sequence[int], dtype: np.dtype) -> Descriptor:
    """An array in the layout that the primitive likes best."""
    create = _needed().memory_desc_create_with_tag
    return Descriptor(new(create, len(shape), sizes(shape), _DTYPES[dtype], _ANY))


# In CPython the fields of an array (NumPy's PyArrayObject) lie behind the head of all objects, and that is the first.
_HEAD = object.__basicsize__ if sys.implementation.name == "cpython" else 0


def address(x: np.ndarray) -> int:
    """Where the array begins in memory."""
    # Six times as fast as asking the array.
    return ctypes.c_size_t.from_address(id(x) + _HEAD).value if _HEAD else x.__array_interface__["data"][0]


def usable(*arrays: np.ndarray) -> bool:
    """Whether the arrays are of one dtype that primitives are made for."""
    dtype = arrays[0].dtype
    if dtype not in _DTYPES:
        return False
    for a in arrays:  # noqa: SIM110  (faster than all)
        if a.dtype != dtype:
            return False
    return True


class Primitive:
    """A compiled computation. Call it with one address for each of `arguments`, pairs of an Arg and a Descriptor.

    `pd`: the primitive descriptor, which is destroyed. Raises Unsupported for code that is not fast, unless `slow`.
    """

    def __init__(
        self, context: Context, pd: int, arguments: Sequence[tuple[int, Descriptor]], slow: bool = False
    ) -> None:
        lib = self._lib = context.lib
        self._primitive, self._memories = 0, []
        try:
            name = ctypes.c_char_p()
            lib.primitive_desc_query(pd, _QUERY_NAME, 0, ctypes.byref(name))
            self.name = (name.value or b"").decode()
            if self.name.startswith("ref") and not slow:
                raise Unsupported(f"only slow code: {self.name}")
            scratchpad = query(context, pd, _QUERY_SCRATCHPAD)
            self.scratchpad = scratchpad.bytes
            self._primitive = new(lib.primitive_create, pd)
            for _, descriptor in (*arguments, (Arg.SCRATCHPAD, scratchpad)):
                self._memories.append(new(lib.memory_create, descriptor.pointer, context.engine, None))
        finally:
            lib.primitive_desc_destroy(pd)
        places = [*(place for place, _ in arguments), Arg.SCRATCHPAD]
        self._arguments = (_Argument * len(places))(*map(_Argument, places, self._memories))
        self._stream = context.stream
        self._addresses: tuple[int | None, ...] = (None,) * len(places)

    def __call__(self, *addresses: int) -> None:
        """The last address is that of `scratchpad` bytes for the primitive itself."""
        lib = self._lib
        for memory, address, before in zip(self._memories, addresses, self._addresses, strict=True):
            if address != before:
                lib.memory_set_data_handle(memory, address)
        self._addresses = addresses
        lib.primitive_execute(self._primitive, self._stream, len(addresses), self._arguments)

    def __del__(self) -> None:
        for memory in self._memories:
            self._lib.memory_destroy(memory)
        if self._primitive:
            self._lib.primitive_destroy(self._primitive)


def query(context: Context, pd: int, what: int, index: int = 0) -> Descriptor:
    """The descriptor of an array that the primitive descriptor `pd` has chosen."""
    pointer = _POINTER()
    context.lib.primitive_desc_query(pd, what, index, ctypes.byref(pointer))
    return Descriptor(new(context.lib.memory_desc_clone, pointer))


def moved(context: Context, source: Descriptor, target: Descriptor) -> Primitive:
    """The primitive that copies an array into another layout."""
    engine, pointers = context.engine, (source.pointer, target.pointer)
    create = context.lib.reorder_primitive_desc_create
    pd = new(create, pointers[0], engine, pointers[1], engine, context.attributes)
    return Primitive(context, pd, [(Arg.SRC, source), (Arg.DST, target)], slow=True)


class Context:
    """What a thread has of the library: engine, stream, primitives, and memory for what lies in between."""

    def __init__(self) -> None:
        self.lib = _needed()
        self.engine = new(self.lib.engine_create, 1, 0)  # the CPU
        self.stream = new(self.lib.stream_create, self.engine, 1)  # in order
        self.attributes = new(self.lib.primitive_attr_create)
        self.lib.primitive_attr_set_fpmath_mode(self.attributes, 0)  # float32 stays float32
        self.lib.primitive_attr_set_scratchpad_mode(self.attributes, 1)  # memory is what `scratch` gives
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._scratch, self._start, self._room = np.empty(0, np.uint8), 0, 0
        threads = os.environ.get("OMP_NUM_THREADS", "")
        if threading.current_thread() is not threading.main_thread() and threads.isdecimal():
            # OpenMP's number of threads belongs to the thread that sets it; a run has one for all.
            self.lib.set_threads(int(threads))

    def kept(self, make: Callable[..., Any], *arguments: Hashable) -> Any:
        """make(self, *arguments), made once; None where it raised Unsupported."""
        key = (make, self.lib.threads(), arguments)
        kept = self._kept
        if key in kept:
            kept.move_to_end(key)
            return kept[key]
        try:
            made = make(self, *arguments)
        except Unsupported:
            made = None
        kept[key] = made
        if len(kept) > PRIMITIVES:
            kept.popitem(last=False)
        return made

    def scratch(self, *lengths: int) -> list[int]:
        """Addresses of pieces of memory of so many bytes, until the next call."""
        found, room = [], 0
        for n in lengths:
            found.append(room)
            room += n + -n % 64
        if room > self._room:
            self._scratch, self._room = np.empty(room + 64, np.uint8), room
            self._start = address(self._scratch)
            self._start += -self._start % 64
        return [self._start + n for n in found]


class _Local(threading.local):
    context: Context | None = None


_local = _Local()


def context() -> Context:
    """This thread's. Raises Unsupported without a library."""
    if _local.context is None:
        _local.context = Context()
    return _local.context
