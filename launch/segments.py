"""Names in /dev/shm that an MPI library leaves there when a job is killed."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

__all__ = ["remove_own", "remove_orphaned"]

SHM = Path("/dev/shm")
# MPICH, the UCX below it, Open MPI 4 and 5.
NAMES = re.compile(r"(mpich_sh|ucx_shm_posix_|vader_segment\.|sm_segment\.|osc_sm\.|osc_rdma\.)")
OPENED = ("mpich_sh", "vader_segment.", "sm_segment.")  # what ranks open at the first message between them, or before
TWO_LOOKS = 0.2  # seconds: a segment that is being made is mapped at once


def remove_own() -> None:
    """Remove the names of the MPI's segments that this process maps and nobody else is to open. Their memory stays."""
    for name in _mapped("self"):
        if name.startswith(OPENED):
            (SHM / name).unlink(missing_ok=True)


def remove_orphaned(since: float) -> None:
    """Remove segments of this user's MPI jobs that were made after `since` (time.time()) and that no process maps."""
    orphans = _orphaned(since)
    if orphans:
        time.sleep(TWO_LOOKS)
        for name in orphans & _orphaned(since):
            (SHM / name).unlink(missing_ok=True)


def _orphaned(since: float) -> set[str]:
    names = set()
    for entry in os.scandir(SHM) if SHM.is_dir() else ():
        try:
            about = entry.stat()
        except FileNotFoundError:
            continue
        if NAMES.match(entry.name) and about.st_uid == os.geteuid() and about.st_ctime >= since - 1.0:
            names.add(entry.name)
    for pid in filter(str.isdigit, os.listdir("/proc")) if names else ():
        names -= _mapped(pid)
    return names


def _mapped(pid: str) -> set[str]:
    """Names in /dev/shm that a process maps."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except OSError:  # it has ended, or is another user's
        return set()
    return set(re.findall(rf"{SHM}/(\S+)$", maps, re.MULTILINE))
