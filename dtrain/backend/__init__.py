"""Arrays and kernels: the only folder that can tell NumPy from CuPy.

Imports nothing else of dtrain. Read `reference/` first: it says in plain NumPy what every
hand-made kernel computes. `random.py` holds the counter-based random streams.

The backend follows the type of the array, never a global switch: general array code asks
`xp_of(x)` for the module whose functions have NumPy's names, and code that needs a hand-made
kernel asks `backend_of(x)` for an object that has it.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from dtrain.backend import cpu, reference

__all__ = ["Array", "NoKernelError", "backend_of", "device_of", "to_device", "to_numpy", "xp_of"]

Array = Any  # numpy.ndarray or cupy.ndarray


class NoKernelError(TypeError):
    """There is no kernel for this kind of array."""


def xp_of(x: Array, *others: Array) -> ModuleType:
    """The module whose functions take arrays of x's type, and of the others' where they are given too.

    numpy for NumPy's arrays and Python numbers; what an array names itself (`__array_namespace__`) comes first.
    """
    if not others and isinstance(x, (np.ndarray, np.generic, int, float)):
        return np
    for a in (x, *others):
        if not isinstance(a, (np.ndarray, np.generic, int, float, type(None))):
            if not hasattr(a, "__array_namespace__"):
                raise TypeError(f"expected a NumPy array, got {type(a).__name__}")
            return a.__array_namespace__()
    return np


def backend_of(x: Array) -> ModuleType:
    """The kernels for arrays of x's type: functions named as in `reference`."""
    if isinstance(x, np.ndarray):
        return _of_numpy()
    raise NoKernelError(f"expected a NumPy array, got {type(x).__name__}")


@cache
def _of_numpy() -> ModuleType:
    """`cpu` where oneDNN is there, else `reference`: asked for at the first kernel, after the threads have been set."""
    return cpu if cpu.available() else reference


def device_of(x: Array) -> str:
    """Where x lives: "cpu"."""
    xp_of(x)
    return "cpu"


def to_device(x: Array, device: str) -> Array:
    """x on `device`, without a copy where it is there already. Raises ValueError for a device not to be had."""
    if str(device).split(":")[0] != "cpu":
        raise ValueError(f"device {str(device)!r} is not available; this version computes on 'cpu'")
    return x


def to_numpy(x: Array) -> np.ndarray:
    """x as a NumPy array on the host, without a copy where it is one."""
    return np.asarray(x)
