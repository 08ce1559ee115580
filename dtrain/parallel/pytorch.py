"""The keyword arguments that scripts pass to PyTorch's DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["check_options"]


def _anything(value: Any) -> bool:
    return True


# What may be passed and changes nothing, and what to know where something else is passed.
_OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "find_unused_parameters": (_anything, ""),
    "static_graph": (_anything, ""),
    "gradient_as_bucket_view": (_anything, ""),
    "bucket_cap_mb": (_anything, ""),
    "output_device": (_anything, ""),
    "device_ids": (lambda ids: ids is None or len(ids) == 1, "a rank has one device, that of its module"),
    "broadcast_buffers": (bool, "buffers are equal on all ranks after every step: the mean over all microbatches"),
    "init_sync": (bool, "all ranks must begin with the same values, which is checked"),
    "process_group": (lambda group: group is None, "pass the job's communicator: comm=job.comm"),
}


def check_options(options: Mapping[str, Any]) -> None:
    """Raise TypeError for an option that PyTorch does not have or that means nothing here, ValueError for a value
    that asks for something else than what is done anyway."""
    for name, value in options.items():
        if name not in _OPTIONS:
            raise TypeError(
                f"DistributedDataParallel got an unexpected keyword argument {name!r}; of PyTorch's it takes "
                f"{', '.join(_OPTIONS)}, which change nothing"
            )
        fits, reason = _OPTIONS[name]
        if not fits(value):
            raise ValueError(f"DistributedDataParallel: {name}={value!r} cannot be had: {reason}; leave it out")
