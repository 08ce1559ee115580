"""How much a rank sends."""

from __future__ import annotations

import threading

__all__ = ["Traffic"]


class Traffic:
    """`bytes_sent`: what this rank has handed over to other ranks, once for each that receives it.

    A transport may take other ways (a broadcast goes through other ranks) and adds its own headers. Sums in
    the transport's own order count as in a ring: 2 n (P - 1) / P of n bytes. Pickled objects do not count, nor
    does what ranks read in shared memory.
    """

    def __init__(self) -> None:
        self.bytes_sent = 0
        self._lock = threading.Lock()  # the main thread and the helper thread send

    def add(self, nbytes: int) -> None:
        """So many bytes are about to be sent."""
        with self._lock:
            self.bytes_sent += nbytes
