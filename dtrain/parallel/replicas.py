"""The check at the start: do all ranks hold the same module?"""

from __future__ import annotations

import hashlib

from dtrain.backend import to_numpy
from dtrain.comm import Communicator
from dtrain.nn.module import Module

__all__ = ["check_replicas"]


def check_replicas(module: Module, comm: Communicator, **settings: object) -> None:
    """Compare names, shapes, dtypes and values (by hash) of parameters and buffers over ranks, and settings.

    Raises RuntimeError on every rank, with the first rank and setting or tensor that differ from rank 0's.
    """
    if comm.size == 1:
        return
    mine = [f"{name}: {value}" for name, value in settings.items()]
    mine += [
        f"{name}: {value.dtype} {value.shape}, trained: {value.requires_grad}, "
        f"values {hashlib.blake2b(to_numpy(value.array).tobytes(), digest_size=8).hexdigest()}"
        for name, value, _ in module._named_tensors()
    ]
    digest = hashlib.blake2b("\n".join(mine).encode()).hexdigest()
    digests = comm.all_gather_object(digest)
    if len(set(digests)) == 1:
        return
    everyone = comm.all_gather_object(mine)
    for rank, theirs in enumerate(everyone):
        for i in range(max(len(theirs), len(everyone[0]))):
            first, other = (lines[i] if i < len(lines) else "nothing" for lines in (everyone[0], theirs))
            if first != other:
                raise RuntimeError(
                    f"the modules of rank 0 and rank {rank} differ: rank 0 has {first}; rank {rank} has {other}; "
                    "make the same module from the same seed on every rank (launch.Job(seed=...) comes first)"
                )
