"""GPUs: whether there are any, and the way of arrays to them."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.backend import capture

__all__ = [
    "Pinned", "count", "current_stream", "fetched", "made_on_gpu", "memory_of", "new_stream", "pinned_zeros",
    "require", "to_gpu",
]  # fmt: skip


def count() -> int:
    """The number of GPUs that this process can use; 0 where there is no CuPy, no driver or no GPU."""
    try:
        import cupy

        return int(cupy.cuda.runtime.getDeviceCount())
    except (ImportError, RuntimeError):
        return 0


def require(index: int | None = None) -> Any:
    """The module cupy. Raises ValueError, saying what to do, where it, its driver or that GPU is missing."""
    name = "cuda" if index is None else f"cuda:{index}"
    try:
        import cupy
    except ImportError as error:
        raise ValueError(
            f"device {name!r} is not available: CuPy cannot be imported ({error}); pip install 'dtrain[cuda13]', or "
            "'dtrain[cuda12]' for a driver older than CUDA 13, or use device='cpu'"
        ) from error
    try:
        devices = int(cupy.cuda.runtime.getDeviceCount())
    except RuntimeError as error:
        raise ValueError(
            f"device {name!r} is not available: {error}; there is no GPU, no NVIDIA driver, or one too old for CuPy "
            f"{cupy.__version__}; install dtrain[cuda12] or [cuda13] as the driver asks, or use device='cpu'"
        ) from error
    if not (index or 0) < devices:
        raise ValueError(f"device {name!r} is not available: this process sees {devices} GPU(s), numbered from 0")
    return cupy


def memory_of(device: str | None) -> tuple[int, int]:
    """The bytes of CuPy's pool in use on a device, "cuda:0", and all that the device has; (0, 0) for None."""
    if device is None:
        return 0, 0
    import cupy

    with cupy.cuda.Device(int(device.partition(":")[2])) as here:
        return int(cupy.get_default_memory_pool().used_bytes()), int(here.mem_info[1])


def to_gpu(x: Any, index: int | None) -> Any:
    """An array of NumPy or CuPy on GPU `index`, None: the current one; no copy where it is there already."""
    cupy = require(index)
    if isinstance(x, cupy.ndarray) and (index is None or x.device.id == index):
        return x
    capture.refuse("an array comes from the host")
    if index is None:
        return cupy.asarray(x)
    with cupy.cuda.Device(index):
        return cupy.array(x) if isinstance(x, cupy.ndarray) else cupy.asarray(x)


def made_on_gpu(make: Callable[[Any], Any], index: int | None) -> Any:
    """make(cupy) on GPU `index`, None: the current one."""
    cupy = require(index)
    if index is None:
        return make(cupy)
    with cupy.cuda.Device(index):
        return make(cupy)


def current_stream() -> Any:
    """The stream on which this thread's work for its GPU is done."""
    import cupy

    return cupy.cuda.get_current_stream()


def new_stream() -> Any:
    """A stream whose work goes on beside that of all others; in order with them only by events."""
    import cupy

    return cupy.cuda.Stream(non_blocking=True)


def fetched(x: Any) -> Callable[[], np.ndarray]:
    """A function that returns the present values of x on the host; it alone waits for them."""
    import cupy

    values = pinned_zeros(x.shape, x.dtype)
    source = x if x.flags.c_contiguous else cupy.ascontiguousarray(x)
    source.get(out=values, blocking=False)
    record = capture.present()
    if record is not None:  # each start of the graph brings new values

        def read_again() -> np.ndarray:
            record.finished.synchronize()
            return values.copy()

        return read_again
    event = cupy.cuda.get_current_stream().record()

    def read() -> np.ndarray:
        event.synchronize()
        return values

    return read


class Pinned:
    """Lets a GPU read and write host memory by itself for as long as this object lives: that of arrays of one piece."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        import cupy

        start, last = arrays[0].ctypes.data, arrays[-1]
        cupy.cuda.runtime.hostRegister(start, last.ctypes.data + last.nbytes - start, 0)
        weakref.finalize(self, _release, start, arrays).atexit = False


def _release(start: int, arrays: Sequence[np.ndarray]) -> None:
    """arrays: so that their memory is there until now."""
    import cupy

    cupy.cuda.runtime.deviceSynchronize()
    cupy.cuda.runtime.hostUnregister(start)


def pinned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array on the host that a GPU can read and write by itself."""
    import cupy

    n = math.prod(shape)
    array = np.frombuffer(cupy.cuda.alloc_pinned_memory(max(1, n) * dtype.itemsize), dtype, n).reshape(shape)
    array[...] = 0
    return array
