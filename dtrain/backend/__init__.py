"""Arrays and kernels: the only folder that can tell NumPy from CuPy.

Imports nothing else of dtrain. Read `reference/` first: it says in plain NumPy what every
hand-made kernel computes; `cpu/` and `cuda/` have faster ones under the same names. `random.py` holds the
counter-based random streams.

The backend follows the type of the array, never a global switch: general array code asks
`xp_of(x)` for the module whose functions have NumPy's names, and code that needs a hand-made
kernel asks `backend_of(x)` for an object that has it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from dtrain.backend import capture, cpu, reference

__all__ = [
    "Array", "NoKernelError", "activation", "backend_of", "device_of", "fetched", "joined", "made_on", "on_gpu",
    "to_device", "to_numpy", "xp_of",
]  # fmt: skip

Array = Any  # numpy.ndarray or cupy.ndarray


class NoKernelError(TypeError):
    """There is no kernel for this kind of array."""


def on_gpu(x: Any) -> bool:
    """Whether x is an array of CuPy. Where CuPy was not imported nothing is."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(x, cupy.ndarray)


def xp_of(x: Array, *others: Array) -> ModuleType:
    """The module whose functions take arrays of x's type, and of the others' where they are given too.

    numpy for NumPy's arrays and Python numbers; what an array names itself (`__array_namespace__`) comes first.
    """
    if not others and isinstance(x, (np.ndarray, np.generic, int, float)):
        return np
    for a in (x, *others):
        if not isinstance(a, (np.ndarray, np.generic, int, float, type(None))):
            if on_gpu(a):
                return sys.modules["cupy"]
            if not hasattr(a, "__array_namespace__"):
                raise TypeError(f"expected a NumPy array or one of CuPy, got {type(a).__name__}")
            return a.__array_namespace__()
    return np


def backend_of(x: Array) -> ModuleType:
    """The kernels for arrays of x's type: functions named as in `reference`."""
    if isinstance(x, np.ndarray):
        return _of_numpy()
    if on_gpu(x):
        return _of_cupy()
    if hasattr(x, "look"):  # stands in for an array while a step is noted (`autograd.noted`)
        return backend_of(x.look("by a kernel"))
    raise NoKernelError(f"expected a NumPy array or one of CuPy, got {type(x).__name__}")


def activation(name: str, x: Array, a: float = 0.0, b: float = 0.0) -> tuple[Array, Callable[[Array], Array]] | None:
    """The function `name` of x and its pullback by one kernel; None where there is none: see `cpu.activation`."""
    return cpu.activation(name, x, a, b) if x.__class__ is np.ndarray and cpu.available() else None


@cache
def _of_numpy() -> ModuleType:
    """`cpu` where oneDNN is there, else `reference`: asked for at the first kernel, after the threads have been set."""
    return cpu if cpu.available() else reference


@cache
def _of_cupy() -> ModuleType:
    from dtrain.backend import cuda

    return cuda


def device_of(x: Array) -> str:
    """Where x lives: "cpu", or "cuda:0" and so on."""
    if on_gpu(x):
        return f"cuda:{x.device.id}"
    xp_of(x)
    return "cpu"


def joined(arrays: Sequence[Array], axis: int = 0) -> Array:
    """The concatenation of arrays of one kind along an axis.

    Those of CuPy are joined eight at a time: of more it sends addresses to the GPU first, which no graph can repeat.
    """
    if not on_gpu(arrays[0]):
        return np.concatenate(arrays, axis)
    cupy = sys.modules["cupy"]
    while len(arrays) > 8:
        arrays = [cupy.concatenate(arrays[i : i + 8], axis) for i in range(0, len(arrays), 8)]
    return cupy.concatenate(arrays, axis)


def to_device(x: Array, device: str) -> Array:
    """x on `device` ("cpu", "cuda", "cuda:0"), without a copy where it is there already.

    "cuda" is the current device. Raises ValueError for a device that is not to be had.
    """
    kind, index = _parsed(device)
    if kind == "cpu":
        return to_numpy(x) if on_gpu(x) else x
    from dtrain.backend.gpus import to_gpu

    return to_gpu(x, index)


def made_on(device: str, make: Callable[[ModuleType], Array]) -> Array:
    """make(numpy), or on a GPU make(cupy): an array that is made where it is to be. Raises as `to_device`."""
    kind, index = _parsed(device)
    if kind == "cpu":
        return make(np)
    from dtrain.backend.gpus import made_on_gpu

    return made_on_gpu(make, index)


def _parsed(device: str) -> tuple[str, int | None]:
    kind, _, index = str(device).partition(":")
    if kind not in ("cpu", "cuda") or kind == "cuda" and index and not index.isdigit():
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:0' and so on, got {str(device)!r}")
    return kind, int(index) if kind == "cuda" and index else None


def fetched(x: Array) -> Callable[[], np.ndarray]:
    """A function that returns the present values of x on the host, and waits for them only if they are not there yet.

    The work that is given to a GPU in between goes on meanwhile.
    """
    if on_gpu(x):
        from dtrain.backend.gpus import fetched as from_gpu

        return from_gpu(x)
    values = x.copy()
    return lambda: values


def to_numpy(x: Array) -> np.ndarray:
    """x as a NumPy array on the host, without a copy where it is one."""
    if on_gpu(x):
        capture.refuse("values are asked for on the host")
        return x.get()
    return np.asarray(x)
