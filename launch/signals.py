"""Signals that ask a job to stop: it finishes the step, writes a checkpoint and leaves, all ranks together."""

from __future__ import annotations

import os
import signal
from typing import Any

from dtrain.comm import Communicator

__all__ = ["STOPPING", "ignore_signals", "stop_on_signals"]

# Of a batch system that takes a node back; of Slurm before the time limit; of Ctrl-C.
STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def stop_on_signals(comm: Communicator, stoppable: bool) -> None:
    """From now on these signals set `comm.stop_requested`; or have their usual meaning again.

    One that comes twice, as to a rank and by way of its supervisor, counts once. But where one process is the
    whole job, the second Ctrl-C ends it at once; with mpirun that is mpirun's business.
    """

    def ask(number: int, frame: Any) -> None:
        if number == signal.SIGINT and comm.size == 1:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        first, comm.stop_requested = not comm.stop_requested, True
        if first and comm.rank == 0:
            os.write(2, f"\ndtrain: {signal.Signals(number).name}: finishes the step to write a checkpoint\n".encode())

    for number in STOPPING:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, ask if stoppable else usual)


def ignore_signals() -> None:
    """This rank is about to end as it was asked to: when the first has, srun sends SIGTERM to the others."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
