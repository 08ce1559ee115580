"""Messages that nobody waits for: how one rank's watchdog asks the others'."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Mail"]


class Mail:
    """Small pickled values from rank to rank, over a communicator of its own; used by one thread at a time.

    mpi_comm: of mpi4py; all of its ranks make the Mail together. Neither sending nor looking waits, so it
    does not matter whether the other rank is stopped, busy or gone.
    """

    def __init__(self, mpi_comm: Any) -> None:
        from mpi4py import MPI

        self._comm, self._status = mpi_comm.Dup(), MPI.Status()
        self._sent: list[Any] = []

    def send(self, rank: int, value: Any) -> None:
        """Send a value to a rank."""
        self._sent = [request for request in self._sent if not request.Test()]
        self._sent.append(self._comm.isend(value, rank))

    def look(self) -> Iterator[tuple[int, Any]]:
        """(rank, value) of what has come since."""
        while (message := self._comm.improbe()) is not None:
            value = message.recv(status=self._status)
            yield self._status.Get_source(), value

    def farewell(self) -> Callable[[], bool]:
        """Say that this rank will send no more; the result says, when called, whether all ranks have said it."""
        test: Callable[[], bool] = self._comm.Ibarrier().Test
        return test
