"""Starts real jobs: small scripts on several ranks, in processes of their own."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from launch.environment import launched_world
from launch.runtime import find_mpirun, mpirun_family, settings

__all__ = ["LAUNCHERS", "Ended", "environment", "mpirun", "needs_mpi", "needs_survival", "run", "start", "survives"]

ROOT = Path(__file__).parents[2]
LAUNCHERS = ("mpirun", "launch")


@functools.cache
def mpirun() -> str | None:
    """This environment's mpirun, or None where there is no MPI to start jobs with."""
    try:
        import importlib.util

        return find_mpirun() if importlib.util.find_spec("mpi4py") else None
    except FileNotFoundError:
        return None


needs_mpi = pytest.mark.skipif(
    mpirun() is None or launched_world() is not None,
    reason="needs mpi4py and mpirun, and cannot start a job from inside a job",
)


def survives() -> bool:
    """Whether this environment's mpirun lets ranks go on when others die."""
    path = mpirun()
    return path is not None and "(Open MPI) 5." in mpirun_family(path)[1]


needs_survival = pytest.mark.skipif(
    launched_world() is not None or not survives(), reason="needs Open MPI 5, and cannot start a job from inside a job"
)


@dataclass
class Ended:
    """How a job ended."""

    code: int
    output: str  # stdout and stderr together


@functools.cache
def own_folder() -> tempfile.TemporaryDirectory[str]:
    """For Open MPI's mpirun, as `python -m launch` gives it one: tests before have killed some."""
    return tempfile.TemporaryDirectory(prefix="dtrain-")


def environment(**more: str) -> dict[str, str]:
    """That of a child process, with what this environment's mpirun needs."""
    path = mpirun()
    needed = settings(mpirun_family(path)[0], ranks=99) if path else {}  # tests share the cores
    needed["PRTE_MCA_prte_local_tmpdir_base"] = own_folder().name
    return {**os.environ, "PYTHONPATH": str(ROOT), **needed, **more}


def start(
    launcher: str, script: str, folder: Path, ranks: int = 3, more: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start `script` (its text) with "mpirun", with "launch" (options may follow), or as one process with "python"."""
    file = folder / "script.py"
    file.write_text(textwrap.dedent(script))
    launcher, *options = launcher.split()
    command: Sequence[str] = {
        "mpirun": [mpirun() or "mpirun", "-n", str(ranks), sys.executable, str(file)],
        "launch": [sys.executable, "-m", "launch", "-n", str(ranks), *options, str(file)],
        "python": [sys.executable, str(file)],
    }[launcher]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(**(more or {})),
    )


def run(launcher: str, script: str, folder: Path, ranks: int = 3, more: Mapping[str, str] | None = None) -> Ended:
    """Start a job and wait for its end; a job that hangs fails the test after a minute."""
    began = time.monotonic()
    with start(launcher, script, folder, ranks, more) as process:
        try:
            output, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            pytest.fail(f"the job hangs; its output so far:\n{output}")
    print(f"{launcher}: {time.monotonic() - began:.1f} s, exit code {process.returncode}\n{output}")
    return Ended(process.returncode, output)
