"""Arrays and kernels: the only folder that can tell NumPy from CuPy.

Imports nothing else of dtrain. Read `reference/` first: it says in plain NumPy what every
hand-made kernel computes. `random.py` holds the counter-based random streams.

The backend follows the type of the array, never a global switch: general array code asks
`xp_of(x)` for the module whose functions have NumPy's names, and code that needs a hand-made
kernel asks `backend_of(x)` for an object that has it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from dtrain.backend import reference

__all__ = ["Array", "backend_of", "device_of", "to_device", "to_numpy", "xp_of"]

Array = Any  # numpy.ndarray or cupy.ndarray


def xp_of(x: Array) -> ModuleType:
    """The module (numpy or cupy) whose functions take arrays of x's type."""
    if isinstance(x, (np.ndarray, np.generic, int, float, bool)):
        return np
    raise TypeError(f"expected a NumPy array, got {type(x).__name__}")


def backend_of(x: Array) -> ModuleType:
    """The kernels for arrays of x's type: functions named as in `reference`."""
    if isinstance(x, np.ndarray):
        return reference
    raise TypeError(f"expected a NumPy array, got {type(x).__name__}")


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
