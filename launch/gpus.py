"""Which GPU a rank computes on: chosen before CuPy allots anything."""

from __future__ import annotations

import sys
import warnings
from collections import Counter

from dtrain.comm import Communicator
from dtrain.comm.nccl import NCCL

__all__ = ["bind"]


def bind(device: str, comm: Communicator) -> str:
    """Let this rank compute on a GPU; returns its name, "cuda:1". All ranks call this.

    device: "cuda" gives the k-th rank of a host the k-th GPU that it sees, counted round (a launcher may show each rank
    only its own one); "cuda:1" is that one on every rank. Ranks that have a GPU each are connected by NCCL, as
    `comm.nccl`, where it is there. Raises ValueError, the same on every rank, where a rank cannot have its GPU.
    """
    problem, name, bus = None, "", ""
    try:
        name, bus = _take(device, comm.local_rank)
    except ValueError as error:
        problem = str(error)
    problems = comm.all_gather_object(problem)
    if any(problems):
        rank, first = next((r, p) for r, p in enumerate(problems) if p)
        raise ValueError(first if comm.size == 1 else f"rank {rank}: {first}")
    if comm.size > 1:
        _connect(comm, bus)
    return name


def _take(device: str, local_rank: int) -> tuple[str, str]:
    """The name of this rank's GPU, which is its current one from now on, and where in the host it is."""
    from dtrain.backend.gpus import count, require

    text = device.partition(":")[2]
    if device != "cuda" and not text.isdigit():
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:0' and so on, got {device!r}")
    cupy = require(int(text) if text else None)
    gpu = cupy.cuda.Device(int(text) if text else local_rank % count())
    gpu.use()
    return f"cuda:{gpu.id}", gpu.pci_bus_id


def _connect(comm: Communicator, bus: str) -> None:
    places = comm.all_gather_object((comm.places[comm.rank][0], bus))
    shared = [place for place, ranks in Counter(places).items() if ranks > 1]
    if shared:
        if comm.rank == 0:
            number, where = shared[0]
            ranks = [r for r, place in enumerate(places) if place == shared[0]]
            warnings.warn(
                f"ranks {', '.join(map(str, ranks))} share one GPU (host {number}, {where}) and will slow each other "
                "down; start as many ranks on a host as it has GPUs. Their gradients go by way of the host's memory",
                stacklevel=4,
            )
        return
    reasons = comm.all_gather_object("ranks may be lost, and NCCL does not go on" if comm.survives else NCCL.why_not())
    if not any(reasons):
        comm.nccl = NCCL(comm)
    elif comm.rank == 0:
        reason = next(reason for reason in reasons if reason)
        print(f"dtrain: gradients go by way of the host's memory, without NCCL: {reason}", file=sys.stderr)
