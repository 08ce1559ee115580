"""Memory that a process has freed stays with it: each step asks for the same amounts again."""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>


def keep_freed_memory() -> None:
    """Make the C library's malloc keep what is freed, in place of giving it back to the system.

    Large arrays are given back otherwise as soon as they are freed, and the system fills the next ones with zeros,
    page by page: 10 to 20% of the step of a convolutional network, and more where several ranks do it at once.
    The memory of a process then stays at its peak. Does nothing where the C library has no such choice.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, -1)
