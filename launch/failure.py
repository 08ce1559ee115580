"""One rank fails, the whole job ends at once, and the output says why: once, whole, with the rank.

Left alone, a rank that fails waits for ever in MPI_Finalize for ranks that wait for ever in a
collective for it. The ways out of a process that are covered here:

- an uncaught exception in the main thread (`sys.excepthook`), KeyboardInterrupt among them;
- one in any other thread (`threading.excepthook`, `Communicator.on_helper_error`);
- SystemExit with a code that is not 0, from `sys.exit(3)` or `raise SystemExit(3)`;
- a signal (`supervise`): mpirun ends the other ranks then, but may name the wrong one;
- the death of the launcher (`die_with_parent`).
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from dtrain.checkpoint import Stopped
from launch.environment import may_lose_ranks
from launch.signals import ignore_signals

__all__ = [
    "DONE",
    "IS_SILENT",
    "SPEAKS",
    "STARTED",
    "Failure",
    "before_mpi",
    "die_with_parent",
    "on_exit_code",
    "supervise",
]

PR_SET_PDEATHSIG = 1
# What a rank tells its supervisor: all ranks have started; it leaves in order, and its exit code is the job's, or not.
STARTED, SPEAKS, IS_SILENT = b"!", b"s", b"-"
DONE = 76  # exit code, in the place of 0, of the rank that speaks for a job that may lose ranks
FORKS = 1.0  # seconds in which a launcher makes all of its ranks
BEFORE_MPI = 70  # exit code of a rank that failed before MPI was started, for its supervisor
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)


class Failure:
    """Ends all ranks when this one fails. `abort(code)` is the communicator's."""

    def __init__(self, rank: int, host: str, abort: Callable[[int], None]) -> None:
        self.rank, self.host = rank, host
        self._abort = abort
        self._pid = os.getpid()
        self._first = threading.Lock()

    def install(self) -> None:
        """From now on the process's ways out lead here."""
        sys.excepthook = lambda kind, error, trace: self.failed(error)
        threading.excepthook = self._thread_failed
        on_exit_code(self.left)

    def failed(self, error: BaseException) -> None:
        """Print the traceback of this rank and end the job with exit code 1."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C must not cut this short
        text = "".join(traceback.format_exception(error))
        # A failed message is most likely the consequence of another rank's failure.
        consequence = type(error).__module__.partition(".")[0] == "mpi4py"
        self._end(f"failed:\n{text}", 1, delay=1.0 if consequence else 0.0)

    def left(self, code: Any) -> None:
        """Called with the code of the SystemExit that ends the process: None, number or text."""
        if code is None or (isinstance(code, int) and code & 0xFF == 0):
            return
        if isinstance(code, int):
            self._end(f"left with exit code {code}\n", code & 0xFF)
        else:
            self._end(f"left with exit code 1: {code}\n", 1)

    def _thread_failed(self, args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            self.failed(args.exc_value)

    def _end(self, message: str, code: int, delay: float = 0.0) -> None:
        if os.getpid() != self._pid:  # a forked child's failure is its parent's business
            sys.stderr.write(message)
            return
        # Only one thread reports. It never releases: what comes after it does not matter.
        self._first.acquire()
        # When all ranks fail alike, the lowest one ends the others while they wait here.
        time.sleep(delay + (min(0.5 + 0.1 * self.rank, 2.0) if self.rank else 0.0))
        sys.stdout.flush()
        sys.stderr.write(f"\n[rank {self.rank} on {self.host}] {message}")
        sys.stderr.flush()
        time.sleep(0.2)  # mpirun may drop what it has not passed on when the job is aborted
        self._abort(code)


def before_mpi(rank: int, supervised: bool) -> None:
    """An exception before MPI is started ends this process, or the one that supervises it, by a signal.

    An ordinary exit mpirun would not mind, and the other ranks would wait for this one in MPI_Init.
    """
    pid = os.getpid()

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        text = "".join(traceback.format_exception(error))
        # When all ranks fail alike, rank 0 ends the others while they wait here.
        time.sleep(min(0.5 + 0.1 * rank, 2.0) if rank else 0.0)
        sys.stdout.flush()
        sys.stderr.write(f"\n[rank {rank}] failed before MPI was started:\n{text}")
        sys.stderr.flush()
        time.sleep(0.2)  # mpirun may drop what it has not passed on
        if supervised:
            os._exit(BEFORE_MPI)
        elif os.getpid() == pid:
            os.kill(pid, signal.SIGKILL)

    sys.excepthook = hook


def on_exit_code(tell: Callable[[Any], None]) -> None:
    """Call tell(code) when the interpreter is about to end this process because of a SystemExit.

    `sys.excepthook` is not called for SystemExit and an `atexit` function does not learn the code.
    But the interpreter reads the attribute `code` of the exception that has reached the top, and
    is then the only reader that no Python frame has called. So a SystemExit that is caught counts
    for nothing, and it does not matter who raised the other one, or how.
    """
    member: Any = SystemExit.__dict__["code"]

    def read(error: SystemExit) -> Any:
        code = member.__get__(error)
        at_top = sys._getframe().f_back is None and threading.current_thread() is threading.main_thread()
        if at_top and isinstance(error, Stopped):  # on all ranks, which end together
            ignore_signals()
        elif at_top:
            tell(code)
        return code

    # A built-in type refuses setattr; its namespace, which the proxy __dict__ refers to, does not.
    (namespace,) = gc.get_referents(SystemExit.__dict__)
    namespace["code"] = property(read, member.__set__)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(SystemExit))

    # Python 3.11's own sys.exit makes no exception object that could have its attribute read.
    own = sys.exit

    def leave(status: Any = None, /) -> NoReturn:
        raise SystemExit(status)

    for module in list(sys.modules.values()):  # sys, and who said `from sys import exit`
        if getattr(module, "__dict__", {}).get("exit") is own:
            module.exit = leave  # type: ignore[attr-defined]


def supervise(rank: int, host: str, limit: float) -> Callable[[bytes], None]:
    """Go on as a child of this process, which stays behind only to say what signal has ended the child.

    By the time that mpirun looks who died it has often killed the others as well. The parent passes
    signals on, ends as the child ends, and each dies with the one above it.

    The child calls the function that is returned with STARTED once all ranks have. Until then the parent ends the
    launcher, by SIGTERM, when `limit` seconds have passed (0: never), or when a rank of this host has died:
    a launcher that lets the others go on without it would let them wait for it in MPI_Init.

    Such a launcher ends with 0 when all ranks were killed, and kills the others when one ends with another code. So
    under `python -m launch` one rank SPEAKS at the end, after all others, and its 0 becomes DONE. The parents of the
    others end by a signal, by which the last one learns of it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    launcher, parent = os.getppid(), os.getpid()
    # An end of file would not do: the child's own children hold the pipe open, too.
    told, tell = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of forks where there are threads: BLAS has some, and prepares for forks.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        die_with_parent(parent)
        # mpirun sends signals to whole process groups: each is to come once, from the parent.
        os.setpgid(0, 0)

        def tell_supervisor(word: bytes) -> None:
            os.write(tell, word)

        return tell_supervisor
    die_with_parent(launcher)
    passed_on = set()

    def pass_on(number: int, frame: object) -> None:
        passed_on.add(number)
        with suppress(ProcessLookupError):  # it has ended
            os.kill(child, number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    if reason := _until_started(child, told, launcher, limit):
        os.write(2, f"\n[rank {rank} on {host}] the job has not started: {reason}\n".encode())
        os.kill(launcher, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = signal.Signals(os.WTERMSIG(status))
        if number not in passed_on:  # mpirun ends the ranks that are left with a signal of its own
            message = f"\n[rank {rank} on {host}] was killed by signal {int(number)} ({number.name})\n"
            os.write(2, message.encode())
        signal.signal(number, signal.SIG_DFL) if number is not signal.SIGKILL else None
        os.kill(os.getpid(), number)
    code = os.waitstatus_to_exitcode(status)
    if code == BEFORE_MPI:
        os.kill(os.getpid(), signal.SIGKILL)
    if may_lose_ranks() and os.environ.get("DTRAIN_KEEPER"):
        word = os.read(told, 2)[-1:] if select.select([told], [], [], 0)[0] else b""
        if word == IS_SILENT:
            os.kill(os.getpid(), signal.SIGKILL)
        code = DONE if word == SPEAKS and code == 0 else code
    os._exit(code)


def _until_started(child: int, told: int, launcher: int, limit: float) -> str:
    """Returns when something has come from the pipe `told`, or why that will not be."""
    began = complete = time.monotonic()
    while not select.select([told], [], [], 0.05)[0]:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return "this rank has ended" if may_lose_ranks() else ""
        now = time.monotonic()
        if limit and now > began + limit:
            return f"after {limit:g} s not all ranks have made their Job; longer: $DTRAIN_TIMEOUT, in seconds"
        if may_lose_ranks():
            if _ranks_of(launcher) >= int(os.environ["OMPI_COMM_WORLD_LOCAL_SIZE"]):
                complete = now
            elif now > complete + FORKS:
                return "another rank has died"
    return ""


def _ranks_of(launcher: int) -> int:
    """How many ranks the launcher has on this host, as its children."""
    count = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            count += parent == launcher and b"OMPI_COMM_WORLD_RANK=" in (folder / "environ").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
    return count


def die_with_parent(parent: int) -> None:
    """Linux kills this process when the process that started it, `parent`, ends, by whatever cause.

    mpirun that is killed with signal 9 would leave its ranks alive.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    # It may have ended while we asked; then no signal comes.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
