"""What is allocated, by whom: for an error that says more than that there is no memory left."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np

from dtrain.backend import device_of, on_gpu
from dtrain.backend.gpus import memory_of

__all__ = ["allocated", "explain"]


def allocated(device: str) -> dict[str, int]:
    """Bytes by kind, "parameters", "gradients", "optimizer state" and "other tensors", on this device."""
    from dtrain.autograd.tensor import Tensor

    seen: set[int] = set()
    found = dict.fromkeys(("parameters", "gradients", "optimizer state", "other tensors"), 0)

    def count(kind: str, array: Any) -> None:
        if device_of(array) == device:
            start, nbytes = _whole(array)
            if start not in seen:
                seen.add(start)
                found[kind] += nbytes

    objects = gc.get_objects()
    tensors = [o for o in objects if isinstance(o, Tensor)]
    for t in tensors:
        if t.grad is not None:
            count("gradients", t.grad.array)
        if t._flat is not None:
            count("gradients", t._flat.flat.grad)
            count("parameters", t._flat.flat.data)
        elif t.requires_grad and t.is_leaf:
            count("parameters", t.array)
    for o in objects:
        for states in getattr(o, "_flat_states", ()) if hasattr(type(o), "state_nbytes") else ():
            for state in states:
                for array in state.arrays.values():
                    count("optimizer state", array)
    for t in tensors:
        count("other tensors", t.array)
    return found


def _whole(array: Any) -> tuple[int, int]:
    """Where the memory begins that an array is a part of, and its bytes."""
    if on_gpu(array):
        return array.data.mem.ptr, array.data.mem.size
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.ctypes.data, array.nbytes


def explain(error: MemoryError, what: str, args: Any = ()) -> None:
    """Say in the error who wanted memory, what has it, and what helps. args: of what was computed."""
    arrays = [array for a in args if hasattr(array := getattr(a, "array", a), "dtype")]
    where = next((device_of(a) for a in arrays if on_gpu(a)), None)
    shapes = ", ".join(f"{a.dtype} {a.shape}" for a in arrays)
    used, total = memory_of(where)
    kinds = allocated(where or "cpu")
    rest = used - sum(kinds.values()) if used else 0
    parts = [f"{name} {_size(n)}" for name, n in kinds.items() if n]
    parts += [f"what backward needs, and temporaries, {_size(rest)}"] if rest > 0 else []
    error.add_note(
        f"{what}{f' of {shapes}' if shapes else ''} ran out of memory"
        + (f" on {where}, of which {_size(used)} of {_size(total)} are allocated" if where else "")
        + (f": {', '.join(parts)}" if parts else "")
        + "; use a smaller batch or more microbatches, autocast, dtrain.utils.checkpoint for large parts of the model, "
        "or ZeroRedundancyOptimizer for the optimizer's state"
    )


def _size(n: int) -> str:
    return f"{n / 2**30:.1f} GiB" if n >= 1 << 30 else f"{n / 2**20:.1f} MiB"
