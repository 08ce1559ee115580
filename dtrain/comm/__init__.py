"""Communicators: what the ranks of a job say to each other, as operations on NumPy arrays.

Imports: numpy; mpi4py only inside `MPICommunicator`, so that one process never needs it. Of dtrain
at most `dtrain.backend`. A communicator is passed, never fetched from a global.

Read first: `communicator.py` (what every communicator can do, and on which arrays), then
`threads.py` (the naive twin: ranks are threads, plain NumPy), then `mpi.py` (the real one).
`request.py` is the one mechanism behind every non-blocking form, `window.py` the memory that the
ranks of a host share, `waits.py` what a watchdog reads, and `mail.py` how it asks. `survive.py` goes
on when ranks die.
"""

from __future__ import annotations

from dtrain.comm.communicator import Communicator, shares
from dtrain.comm.lost import RankLost
from dtrain.comm.mail import Mail
from dtrain.comm.mpi import MPICommunicator
from dtrain.comm.process import state_of
from dtrain.comm.request import Request
from dtrain.comm.single import SingleCommunicator
from dtrain.comm.survive import SurvivingCommunicator
from dtrain.comm.threads import ThreadCommunicator, run_ranks
from dtrain.comm.waits import State, Waits
from dtrain.comm.window import Window

__all__ = [
    "Communicator",
    "MPICommunicator",
    "Mail",
    "RankLost",
    "Request",
    "SingleCommunicator",
    "State",
    "SurvivingCommunicator",
    "ThreadCommunicator",
    "Waits",
    "Window",
    "run_ranks",
    "state_of",
    "shares",
]
