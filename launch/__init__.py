"""A job: its ranks, threads, failure and progress; and `python -m launch`, which starts one.

Imports dtrain, nothing imports it. Read first: `job.py`, whose constructor is the order in which
things must happen; each step is a file:

    environment.py   what the launcher's environment variables say, before MPI starts
    memory.py        what malloc does with freed memory
    threads.py       threads per rank
    failure.py       one rank fails, the whole job ends
    signals.py       asked to stop, the job ends after the step, with a checkpoint
    watchdog.py      a rank waits too long, the whole job says where it is and ends
    progress.py      the progress bar
    runtime.py       the MPI of this Python environment, and what it needs
    __main__.py      python -m launch -n 4 script.py
    keeper.py        the parent of a job, which brings it signals and starts it again when it fails
    replay.py        a step that failed, once more in one process
    segments.py      what MPI libraries leave in /dev/shm
"""

from __future__ import annotations

from launch.environment import launched_world
from launch.failure import before_mpi
from launch.job import Job
from launch.progress import Progress

__all__ = ["Job", "Progress"]

# A rank that fails before it has made its Job ends the others too.
if (_world := launched_world()) is not None and _world.size > 1:
    before_mpi(_world.rank, supervised=False)
