"""NVRTC, the compiler of CUDA C++ that CuPy calls, by ctypes: it needs neither a GPU nor CuPy."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["CompileError", "compiled", "why_not"]


class CompileError(RuntimeError):
    """With what NVRTC says."""


def _packages() -> list[Path]:
    spec = find_spec("nvidia")
    return [Path(p) for p in spec.submodule_search_locations or ()] if spec else []


def _found(pattern: str) -> Path | None:
    return next((path for folder in _packages() for path in sorted(folder.glob(pattern))), None)


def why_not() -> str | None:
    """Why there is no NVRTC, None if there is."""
    if _found("*/lib/libnvrtc.so.1[0-9]") is None:
        return "the package nvidia-cuda-nvrtc is not installed"
    return None if _found("*/include/cuda_fp16.h") else "the package nvidia-cuda-runtime is not installed"


@cache
def _library() -> Any:
    # NVRTC opens it by its name alone, and finds it if it is loaded already.
    ctypes.CDLL(str(_found("*/lib/libnvrtc-builtins.so.*")), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(_found("*/lib/libnvrtc.so.1[0-9]")))


def compiled(source: str, names: Sequence[str], architecture: str) -> bytes:
    """The machine code ("sm_90") of the kernels `names` of a source. Raises CompileError."""
    nvrtc, program = _library(), ctypes.c_void_p()

    def done(status: int) -> None:
        if status:
            size = ctypes.c_size_t()
            nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            nvrtc.nvrtcGetProgramLog(program, log)
            raise CompileError(f"NVRTC error {status}: {log.value.decode()}")

    done(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None))
    try:
        for name in names:
            done(nvrtc.nvrtcAddNameExpression(program, name.encode()))
        headers = _found("*/include/cuda_fp16.h")
        assert headers is not None
        options = [b"-std=c++17", f"-arch={architecture}".encode(), f"-I{headers.parent}".encode()]
        done(nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options)))
        size = ctypes.c_size_t()
        done(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)))
        code = ctypes.create_string_buffer(size.value)
        done(nvrtc.nvrtcGetCUBIN(program, code))
        return code.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
