"""The kernels of the `.cu` files beside this one, compiled when they are first called, and kept by CuPy on disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dtrain.backend.halves import bfloat16

__all__ = ["CTYPES", "OPTIONS", "blocks", "compiled", "kernel", "pointer", "source", "wide", "word"]

HERE = Path(__file__).parent

#: What a dtype is called in CUDA C++.
CTYPES = {
    np.dtype(np.float32): "float",
    np.dtype(np.float64): "double",
    np.dtype(np.float16): "__half",
    bfloat16: "__nv_bfloat16",
    np.dtype(np.int64): "long long",
    np.dtype(np.int32): "int",
    np.dtype(np.int16): "short",
    np.dtype(np.int8): "signed char",
    np.dtype(np.uint8): "unsigned char",
    np.dtype(np.bool_): "bool",
}
OPTIONS = ("-std=c++17",)


@cache
def source(name: str) -> str:
    """The text of a `.cu` file, whole."""
    return _whole((HERE / f"{name}.cu").read_text())


def _whole(text: str) -> str:
    """With what it includes of ours in it: CuPy's cache does not look into such files."""
    return text.replace('#include "common.cuh"', (HERE / "common.cuh").read_text())


@cache
def kernel(name: str, function: str) -> Callable[..., None]:
    """kernel("softmax", "softmax<float>")(grid, block, args, shared_mem=0) starts it on the current stream.

    Numbers among the arguments are NumPy's, of exactly the types that the function has.
    """
    return compiled(source(name), function)


def compiled(text: str, function: str, options: tuple[str, ...] = ()) -> Callable[..., None]:
    """The same for a function of a text, with more options for the compiler."""
    import cupy

    module = cupy.RawModule(code=_whole(text), options=OPTIONS + options, name_expressions=[function])
    started: Callable[..., None] = module.get_function(function)
    return started


def word(truth: bool) -> str:
    """A truth in CUDA C++."""
    return "true" if truth else "false"


def wide(dtype: Any) -> Any:
    """The type in which numbers of a dtype are computed with: NumPy's float32, but float64 for float64."""
    return np.float64 if dtype == np.float64 else np.float32


def pointer(x: Any) -> Any:
    """An argument for a pointer that may be null, where x is None."""
    return np.uintp(0) if x is None else x


def blocks(n: int, threads: int, at_most: int = 1 << 16) -> tuple[int]:
    """A grid of one dimension for n pieces of work, `threads` to a block; a kernel strides over the rest."""
    return (max(1, min(-(-n // threads), at_most)),)
