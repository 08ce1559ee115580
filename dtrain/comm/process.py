"""Whether another process of this host is alive."""

from __future__ import annotations

__all__ = ["state_of"]


def state_of(pid: int) -> str:
    """The state of a process as proc(5) calls it: R, S, D, T (stopped), Z (has ended), ...; "" where it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
