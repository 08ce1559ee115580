"""The parent of a job: brings signals to its ranks, starts it again when it fails, and leaves nothing behind.

It watches the launcher (mpirun, srun, or the script itself). Where the launcher fails, because a rank was killed
or raised or waited too long, or because it was killed itself, the job is started again, and the script goes on
from its newest checkpoint. Wrong arguments, and a job that was asked to stop, are no failures.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from dtrain.checkpoint import STOPPED
from launch.failure import DONE, die_with_parent
from launch.segments import remove_orphaned
from launch.signals import STOPPING

__all__ = ["Keeper"]

PR_SET_CHILD_SUBREAPER = 36
WRONG_ARGUMENTS = 2
NOBODY_LEFT = 1  # exit code of a job that may lose ranks, and has lost those that should have finished it


class Keeper:
    """Runs a command, mpirun's or srun's or a script's, and passes SIGTERM, SIGINT and SIGUSR1 on to it.

    ask: what they are passed on as; None: as they are. MPICH's mpirun sends all three to the ranks, but Open MPI's
    ends them on SIGTERM and SIGINT, and srun thinks twice: both want SIGUSR1. A second SIGINT ends the job at once.
    survives: the launcher lets ranks die, and ends with DONE when the others have finished the job.
    When this process dies, the launcher does, and with it the ranks.

    Attribute `asked`: the signals that have come.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        ask: signal.Signals | None = None,
        survives: bool = False,
    ) -> None:
        self.command, self.environment, self.ask, self.survives = command, environment, ask, survives
        self.asked: list[int] = []
        self._told = 0  # how many of them the launcher knows of
        self._launcher: subprocess.Popen[bytes] | None = None

    def keep(self, restarts: int) -> int:
        """Run the command, and again when it fails, at most `restarts` times more; returns the last exit code.

        A job that was asked to stop is not started again. A launcher that ends by signal n counts as exit code
        128 + n. Ranks of this host that a launcher has left behind are killed.
        """
        # Ranks whose launcher has died become children of this process.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        for number in STOPPING:
            signal.signal(number, self._pass_on)
        for restart in range(restarts + 1):
            began, moment = time.monotonic(), time.time()
            with tempfile.TemporaryDirectory(prefix="dtrain-", ignore_cleanup_errors=True) as folder:
                code = self._run(folder)
                if code:
                    _end_descendants()
            remove_orphaned(moment)
            if self.asked or code in (0, WRONG_ARGUMENTS, STOPPED) or not restarts:
                break
            next_one = f"restart {restart + 1} of {restarts}" if restart < restarts else "no restart is left"
            seconds = time.monotonic() - began
            print(f"dtrain: the job has ended with exit code {code} after {seconds:.1f} s; {next_one}", file=sys.stderr)
        return code

    def _run(self, folder: str) -> int:
        parent = os.getpid()
        # Open MPI's mpirun keeps files under its process number: those of a killed one stop the next of that number.
        environment = {"PRTE_MCA_prte_local_tmpdir_base": folder, **self.environment}
        # In a session of its own, so that a terminal's Ctrl-C comes to this process alone.
        self._launcher = subprocess.Popen(
            self.command,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(parent),
        )
        self._tell()
        code = self._launcher.wait()
        self._launcher = None
        if self.survives and code == 0:
            print("dtrain: the ranks that should have finished the job were killed", file=sys.stderr)
            return NOBODY_LEFT
        if self.survives and code == DONE:
            return 0
        return code if code >= 0 else 128 - code

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.asked.append(number)
        self._tell()

    def _tell(self) -> None:
        """Tell the launcher, if there is one at the moment, of what it does not know yet."""
        while self._launcher is not None and self._told < len(self.asked):
            number = self.asked[self._told]
            again = number == signal.SIGINT and signal.SIGINT in self.asked[: self._told]
            self._told += 1
            self._launcher.send_signal(signal.SIGKILL if again else self.ask or number)


def _end_descendants() -> None:
    """Returns when none of the processes is left that the launcher, or one that it has started, has left behind."""
    while True:
        for child in _children():
            os.kill(child, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _children() -> list[int]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        except OSError:  # it has ended meanwhile
            continue
        if int(parent) == os.getpid():
            found.append(int(pid))
    return found
