"""The parent of a job: starts it again when it fails, passes signals on, and leaves nothing behind.

It watches the launcher (mpirun, srun, or the script itself). Where the launcher fails, because a rank was killed
or raised or waited too long, or because it was killed itself, the job is started again, and the script goes on
from its newest checkpoint. Wrong arguments, and a job that was asked to stop, are no failures.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dtrain.checkpoint import STOPPED
from launch.failure import die_with_parent
from launch.segments import remove_orphaned

__all__ = ["become_keeper", "keep"]

PR_SET_CHILD_SUBREAPER = 36
WRONG_ARGUMENTS = 2
ASK_TO_STOP = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1}
PASSED_ON = ASK_TO_STOP | {signal.SIGUSR2}
AWAITED = PASSED_ON | {signal.SIGCHLD}


def become_keeper(command: Sequence[str], environment: dict[str, str], restarts: int) -> NoReturn:
    """This process becomes one that does `keep(command, restarts)`, and exits with its code."""
    # A new program, because all of its threads, BLAS's too, must begin with these signals blocked.
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    keeper = [sys.executable, "-m", "launch.keeper", json.dumps([command, restarts])]
    os.execve(sys.executable, keeper, environment)


def keep(command: Sequence[str], restarts: int) -> int:
    """Run the command, and again when it fails, at most `restarts` times more; returns the last exit code.

    A signal that this process gets is passed on, and a job that was asked to stop by one is not started again.
    A launcher that ends by signal n counts as exit code 128 + n. When this process dies, the launcher does, and
    with it the ranks; ranks of this host that a launcher has left behind are killed. The signals must be blocked.
    """
    # Ranks whose launcher has died become children of this process.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for restart in range(restarts + 1):
        began, moment = time.monotonic(), time.time()
        code, asked_to_stop = _run(command)
        if code == 0:
            break
        _end_descendants()
        remove_orphaned(moment)
        if asked_to_stop or code in (WRONG_ARGUMENTS, STOPPED):
            break
        next_one = f"restart {restart + 1} of {restarts}" if restart < restarts else "no restart is left"
        seconds = time.monotonic() - began
        print(f"dtrain: the job has ended with exit code {code} after {seconds:.1f} s; {next_one}", file=sys.stderr)
    return code


def _run(command: Sequence[str]) -> tuple[int, bool]:
    """Exit code of the command, and whether a signal has asked to stop it."""
    parent = os.getpid()

    def prepare() -> None:
        die_with_parent(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())

    launcher = subprocess.Popen(command, preexec_fn=prepare)
    asked_to_stop = False
    while launcher.poll() is None:
        received = signal.sigtimedwait(AWAITED, 1.0)
        if received is None or received.si_signo == signal.SIGCHLD:
            continue
        asked_to_stop |= received.si_signo in ASK_TO_STOP
        # A terminal's Ctrl-C has reached the launcher too: a positive code says that the kernel has sent it.
        if received.si_code <= 0:
            launcher.send_signal(received.si_signo)
    code = launcher.returncode
    return (code if code >= 0 else 128 - code), asked_to_stop


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


if __name__ == "__main__":
    sys.exit(keep(*json.loads(sys.argv[1])))
