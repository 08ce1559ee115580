"""Signals that ask a job to stop: with a checkpoint and exit code 75; without a Checkpointer they end it."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from launch.runtime import library_family
from tests.launch.jobs import needs_mpi, start

LOOP = """
import atexit, os, signal, sys, time
import launch
from dtrain import nn
from dtrain.checkpoint import Checkpointer

job = launch.Job()
checkpoint = Checkpointer({directory!r}, job.comm, every=4, net=nn.Linear(1, 1))
while True:
    job.comm.barrier()
    checkpoint.step()
    if checkpoint.steps == 10:
        job.print("ready", flush=True)
        {at_10}
"""

STOPPING = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]


def signalled(
    launcher: str, number: int | None, folder: Path, at_10: str = "pass", directory: str | None = "",
    ready: str = "ready", again: str = "",
) -> tuple[int, str]:  # fmt: skip
    """Exit code and output of a job that is sent a signal when it is `ready`, and once more when it says `again`."""
    script = LOOP.format(directory=str(folder / "run") if directory == "" else directory, at_10=at_10)
    with start(launcher, script, folder, ranks=2) as process:
        assert process.stdout is not None
        output = ""
        for word in (ready, again) if again else (ready,):
            while word not in output:
                line = process.stdout.readline()
                assert line, f"the job ended before it said {word!r}:\n{output}"
                output += line
            if number is not None:
                process.send_signal(number)
        try:
            output += process.communicate(timeout=60)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(f"the job hangs; its output so far:\n{output}{process.communicate()[0]}")
    return process.returncode, output


def assert_stopped(code: int, output: str, folder: Path) -> None:
    assert code == 75, output
    assert output.count("asked to stop: step ") == 1 and "Traceback" not in output and "[rank" not in output
    newest = max(path.name for path in (folder / "run").iterdir())
    assert f"asked to stop: step {int(newest[5:])} is done" in output


@pytest.mark.parametrize("number", STOPPING)
@pytest.mark.parametrize("launcher", ["python", pytest.param("launch", marks=needs_mpi)])
def test_a_signal_stops_the_job_with_a_checkpoint(launcher: str, number: int, tmp_path: Path) -> None:
    assert_stopped(*signalled(launcher, number, tmp_path), tmp_path)


@needs_mpi
@pytest.mark.parametrize("number", STOPPING)
def test_what_the_bare_mpirun_passes_on(number: int, tmp_path: Path) -> None:
    code, output = signalled("mpirun", number, tmp_path)
    if library_family()[0] == "Open MPI" and number != signal.SIGUSR1:
        assert code not in (0, 75)  # it ends the ranks itself
    else:
        assert_stopped(code, output, tmp_path)


@needs_mpi
def test_signals_that_come_twice_and_late(tmp_path: Path) -> None:
    """As from Slurm: to every process of the step, supervisors and ranks; and once more when a rank has left."""
    everywhere = (
        "atexit.register(os.kill, os.getppid(), signal.SIGTERM)"
        "; [os.kill(pid, signal.SIGUSR1) for pid in (os.getpid(), os.getppid())]"
    )
    assert_stopped(*signalled("mpirun", None, tmp_path, everywhere), tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])  # MPICH takes SIGUSR1 for itself
@pytest.mark.parametrize("launcher", ["python", pytest.param("launch", marks=needs_mpi)])
def test_without_a_checkpointer_signals_end_the_job(launcher: str, number: int, tmp_path: Path) -> None:
    code, output = signalled(launcher, number, tmp_path, directory=None)
    assert code == -number and "asked to stop" not in output


@pytest.mark.parametrize("launcher", ["python", pytest.param("launch", marks=needs_mpi)])
def test_a_second_interrupt_ends_the_job_at_once(launcher: str, tmp_path: Path) -> None:
    again = "finishes the step"
    # In short sleeps: a signal just before a long one would be seen after it.
    forever = "while True: time.sleep(0.01)"
    code, output = signalled(launcher, signal.SIGINT, tmp_path, forever, again=again)
    assert code == -signal.SIGINT and output.count(again) == 1


def test_signals_have_their_usual_meaning_again_after_close(tmp_path: Path) -> None:
    closed = "checkpoint.close(); print('closed', flush=True); time.sleep(1000)"
    code, output = signalled("python", signal.SIGTERM, tmp_path, closed, ready="closed")
    assert code == -signal.SIGTERM
