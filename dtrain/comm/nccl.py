"""NCCL: arrays go from GPU to GPU, one per rank. https://docs.nvidia.com/deeplearning/nccl/user-guide/"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.comm.communicator import Communicator

__all__ = ["NCCL"]

Array = Any  # cupy.ndarray


class NCCL:
    """The ranks of `comm`, each with a GPU of its own, which is its current one; all of them make one together.

    Methods are those of a Communicator of these names, for CuPy's arrays of one dimension: they put work on the
    current stream, and return before it is done. `rank` of `size` are comm's.
    """

    def __init__(self, comm: Communicator) -> None:
        from cupy.cuda import nccl

        self.rank, self.size, self.traffic = comm.rank, comm.size, comm.traffic
        self._nccl = nccl
        identity = comm.broadcast_object(nccl.get_unique_id() if comm.rank == 0 else None)
        self._comm = nccl.NcclCommunicator(comm.size, identity, comm.rank)
        self._dtypes = {np.dtype(np.float32): nccl.NCCL_FLOAT32, np.dtype(np.float64): nccl.NCCL_FLOAT64}

    @staticmethod
    def why_not() -> str | None:
        """Why this process cannot have one; None if it can."""
        with warnings.catch_warnings():  # CuPy advises to install it, which its caller says as well
            warnings.simplefilter("ignore")
            from cupy.cuda import nccl
        return None if nccl.available else "CuPy cannot load NCCL; pip install nvidia-nccl-cu13, or -cu12"

    def all_to_all(self, send: Array, send_counts: Sequence[int], recv_counts: Sequence[int]) -> Array:
        """Send a part of `send` to every rank, receive one from each, in order of rank."""
        import cupy

        received = cupy.empty(sum(recv_counts), send.dtype)
        give, take = _parts(send, send_counts), _parts(received, recv_counts)
        take[self.rank][...] = give[self.rank]
        self._trade(give, take)
        return received

    def all_gather_(self, buffer: Array, cuts: Sequence[int]) -> None:
        """Fill a buffer of which rank r has filled buffer[cuts[r]:cuts[r + 1]]."""
        parts = _parts(buffer, [b - a for a, b in zip(cuts, cuts[1:], strict=False)])
        self._trade([parts[self.rank]] * self.size, parts)

    def allreduce_(self, x: Array) -> None:
        """x becomes the sum of x over all ranks, in NCCL's order of additions."""
        self.traffic.add(2 * x.nbytes * (self.size - 1) // self.size)
        pointer = x.data.ptr
        self._comm.allReduce(pointer, pointer, x.size, self._dtypes[x.dtype], self._nccl.NCCL_SUM, _stream())

    def _trade(self, give: list[Array], take: list[Array]) -> None:
        """give[r] goes to rank r, and take[r] comes from there; nothing to this rank itself."""
        stream = _stream()
        self._nccl.groupStart()
        for rank in range(self.size):
            if rank == self.rank:
                continue
            for part, call in ((give[rank], self._comm.send), (take[rank], self._comm.recv)):
                if part.size:
                    call(part.data.ptr, part.nbytes, self._nccl.NCCL_UINT8, rank, stream)
            self.traffic.add(give[rank].nbytes)
        self._nccl.groupEnd()


def _parts(flat: Array, counts: Sequence[int]) -> list[Array]:
    ends = np.cumsum(counts).tolist()
    return [flat[end - count : end] for end, count in zip(ends, counts, strict=True)]


def _stream() -> Any:
    import cupy

    return cupy.cuda.get_current_stream().ptr
