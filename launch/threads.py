"""Threads per rank: part of a run's identity, for a matrix product's last bits depend on them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

__all__ = ["default_threads", "host_cores", "set_threads", "warn_if_crowded"]

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def host_cores() -> int:
    """The cores of this host that belong to the job.

    Not the cores to which this process is bound: mpirun binds a rank to a share of the host that
    depends on the number of ranks, and with it the result of a run would.
    """
    return int(os.environ.get("SLURM_CPUS_ON_NODE") or os.cpu_count() or 1)


def default_threads(cores_of_hosts: Sequence[int], microbatches: int) -> int:
    """The smallest host's cores // microbatches, at least 1: no function of the number of ranks."""
    return max(1, min(cores_of_hosts) // microbatches)


def set_threads(threads: int) -> None:
    """From now on this process, and those that it starts, compute with this many threads."""
    from threadpoolctl import threadpool_limits

    # Libraries that are loaded already; the limits stay until they are set again.
    threadpool_limits(limits=threads)
    # Libraries that are loaded later, and child processes.
    for name in VARIABLES:
        os.environ[name] = str(threads)


def warn_if_crowded(threads: int, local_size: int, cores: int, host: str) -> None:
    """Say so when the ranks of this host have more threads than it has cores."""
    if threads * local_size > cores:
        fitting = max(1, cores // local_size)
        warnings.warn(
            f"{local_size} ranks with {threads} threads each share the {cores} cores of host "
            f"{host} and will slow each other down; use threads={fitting}",
            stacklevel=3,
        )
