"""What one rank per host does for the others: downloads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dtrain.comm import Communicator

__all__ = ["once_per_host"]

T = TypeVar("T")


def once_per_host(comm: Communicator | None, function: Callable[[], T]) -> T:
    """function() on every rank: first on one rank of each host, then on the others, which find what it has brought.

    All ranks call this. Without a communicator it is function(). Where it raises on one rank, it raises on all: there
    what it was, elsewhere a RuntimeError that tells it.
    """
    if comm is None:
        return function()
    results: list[T] = []
    for turn in (True, False):
        error: Exception | None = None
        if (comm.local_rank == 0) == turn:
            try:
                results.append(function())
            except Exception as raised:  # told to the others first
                error = raised
        told = comm.all_gather_object(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        for rank, text in enumerate(told):
            if text is not None:
                raise RuntimeError(f"rank {rank} failed. {text}")
    return results[0]
