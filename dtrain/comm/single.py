"""One process: every collective is the identity, and nothing is imported."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any

from dtrain.comm.communicator import Array, Communicator
from dtrain.comm.request import Request

__all__ = ["SingleCommunicator"]


class SingleCommunicator(Communicator):
    """The communicator of a run without MPI: rank 0 of 1."""

    def __init__(self) -> None:
        super().__init__(0, [(0, 0)], socket.gethostname())

    def start(self, function: Callable[..., Any], *args: Any) -> Request:
        """Runs the function at once, in this thread; `wait` returns its result or raises."""
        request = Request(function, self, *args)
        error = request.run()
        if error is not None:
            self._helper_failed(error)
        return request

    def all_gather_object(self, value: Any) -> list[Any]:
        return [value]

    def barrier(self) -> None:
        pass

    def abort(self, code: int = 1) -> None:
        sys.exit(code)

    def host_group(self) -> Communicator:
        return self

    def lane_group(self) -> Communicator | None:
        return self

    def _twin(self) -> Communicator:
        return self

    def _broadcast(self, flat: Array, root: int) -> None:
        pass

    def _allreduce(self, flat: Array, op: str) -> None:
        pass

    def _reduce_scatter(self, flat: Array, cuts: list[int]) -> Array:
        return flat.copy()

    def _all_gather(self, flat: Array, cuts: list[int]) -> None:
        pass

    def _all_to_all(self, send: Array, send_counts: list[int], recv: Array, recv_counts: list[int]) -> None:
        recv[:] = send
