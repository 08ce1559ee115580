"""GPUs: whether there are any, and the way of arrays to them."""

from __future__ import annotations

from typing import Any

__all__ = ["count", "require", "to_gpu"]


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


def to_gpu(x: Any, index: int | None) -> Any:
    """An array of NumPy or CuPy on GPU `index`, None: the current one; no copy where it is there already."""
    cupy = require(index)
    if isinstance(x, cupy.ndarray) and (index is None or x.device.id == index):
        return x
    if index is None:
        return cupy.asarray(x)
    with cupy.cuda.Device(index):
        return cupy.array(x) if isinstance(x, cupy.ndarray) else cupy.asarray(x)
