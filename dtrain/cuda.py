"""`torch.cuda`: which GPUs there are, which one is the current one, and their memory. One process uses one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dtrain.autograd.memory import allocated
from dtrain.backend import random
from dtrain.backend.gpus import count, require
from dtrain.captured import CapturedStep

__all__ = [
    "CapturedStep", "OutOfMemoryError", "capture", "current_device", "device_count", "empty_cache",
    "get_device_capability", "get_device_name", "is_available", "manual_seed", "manual_seed_all", "mem_get_info",
    "memory_allocated", "memory_reserved", "memory_summary", "set_device", "synchronize",
]  # fmt: skip

#: What CuPy raises is one, with a note that says what is allocated, by whom.
OutOfMemoryError = MemoryError


def capture(step: Callable[..., Any]) -> CapturedStep:
    """`step`, a function that makes a whole training step, as a CUDA graph: see CapturedStep. In a job: job.capture."""
    return CapturedStep(step, is_available())


def is_available() -> bool:
    """Whether there is a GPU that this process can use."""
    return count() > 0


def device_count() -> int:
    """The number of GPUs that this process can use; 0 where there is no CuPy, no driver or no GPU."""
    return count()


def current_device() -> int:
    """The number of the GPU that "cuda" means. Raises ValueError where there is none."""
    return int(require().cuda.runtime.getDevice())


def set_device(device: Any) -> None:
    """Let "cuda" mean this GPU from now on: a number, or "cuda:1". Raises ValueError where it is not to be had."""
    index = _index(device)
    require(index).cuda.Device(index).use()


def get_device_name(device: Any = None) -> str:
    """The product's name, of the current GPU by default. Raises ValueError where it is not to be had."""
    return str(_properties(device)["name"].decode())


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """The compute capability, (9, 0) of an H100. Raises ValueError where it is not to be had."""
    properties = _properties(device)
    return int(properties["major"]), int(properties["minor"])


def synchronize(device: Any = None) -> None:
    """Returns when all work that was given to the GPU is done."""
    index = _index(device)
    require(index).cuda.Device(index).synchronize()


def memory_allocated(device: Any = None) -> int:
    """Bytes of CuPy's pool that are in use on the GPU."""
    return _pool(device, "used_bytes")


def memory_reserved(device: Any = None) -> int:
    """Bytes that CuPy's pool holds on the GPU, in use or not."""
    return _pool(device, "total_bytes")


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """The GPU's free bytes, and all of them."""
    index = _index(device)
    free, total = require(index).cuda.Device(index).mem_info
    return int(free), int(total)


def empty_cache() -> None:
    """Give what CuPy's pool holds and does not use back to the GPU."""
    require().get_default_memory_pool().free_all_blocks()


def memory_summary(device: Any = None) -> str:
    """What is allocated on the GPU, by kind: parameters, gradients, optimizers' state, other tensors."""
    index = _index(device)
    used, reserved = memory_allocated(index), memory_reserved(index)
    kinds = allocated(f"cuda:{index}")
    rows = {**kinds, "the rest": max(0, used - sum(kinds.values())), "in use": used, "reserved": reserved}
    return "\n".join(f"{name:<20}{n / 2**20:>12.1f} MiB" for name, n in rows.items())


def manual_seed(seed: int) -> None:
    """As `dtrain.manual_seed`: streams do not depend on the device."""
    random.manual_seed(seed)


manual_seed_all = manual_seed


def _index(device: Any) -> int:
    if device is None:
        return current_device()
    text = str(device)
    if isinstance(device, int) or text == "cuda":
        return current_device() if text == "cuda" else device
    kind, _, number = text.partition(":")
    if kind != "cuda" or not number.isdigit():
        raise ValueError(f"expected a GPU, its number or 'cuda:0' and so on, got {device!r}")
    return int(number)


def _properties(device: Any) -> dict[str, Any]:
    index = _index(device)
    found: dict[str, Any] = require(index).cuda.runtime.getDeviceProperties(index)
    return found


def _pool(device: Any, what: str) -> int:
    index = _index(device)
    cupy = require(index)
    with cupy.cuda.Device(index):
        return int(getattr(cupy.get_default_memory_pool(), what)())
