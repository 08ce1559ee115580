"""One rank fails in the middle of a loop of collectives: the whole job ends and says why."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from launch.segments import NAMES, SHM
from tests.launch.jobs import LAUNCHERS, needs_mpi, run, start

pytestmark = needs_mpi

LOOP = """
import os, signal, sys
from sys import exit
import numpy as np
import launch

def broken(*_):
    raise KeyError("no such thing")

job = launch.Job()
x = np.zeros(1000)
for step in range(10**9):
    job.comm.allreduce_(x)
    if step == 100 and job.rank == 1:
        {fault}
"""

# What goes wrong on rank 1, and what the output says about it.
FAULTS = {
    "exception": ("broken()", "KeyError: 'no such thing'"),
    "sys.exit": ("sys.exit(3)", "left with exit code 3"),
    "exit that was imported": ("exit(3)", "left with exit code 3"),
    "SystemExit": ("raise SystemExit(3)", "left with exit code 3"),
    "exit with a message": ("sys.exit('out of luck')", "left with exit code 1: out of luck"),
    "interrupt": ("raise KeyboardInterrupt('stop')", "KeyboardInterrupt: stop"),
    "helper thread": ("job.comm.start(broken)", "KeyError: 'no such thing'"),
    "other thread": (
        "import threading; threading.Thread(target=broken).start()",
        "KeyError: 'no such thing'",
    ),
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_rank_ends_the_job(fault: str, launcher: str, tmp_path: Path) -> None:
    code, message = FAULTS[fault]
    ended = run(launcher, LOOP.format(fault=code), tmp_path)
    assert ended.code != 0
    assert re.findall(r"\[rank (\d) on \S+\]", ended.output) == ["1"]
    assert ended.output.count(message) == 1


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_killed_rank_ends_the_job(launcher: str, tmp_path: Path) -> None:
    fault = "print('goodbye'); os.kill(os.getpid(), signal.SIGKILL)"
    ended = run(launcher, LOOP.format(fault=fault), tmp_path)
    assert ended.code != 0
    assert "goodbye" in ended.output
    assert re.findall(r"\[rank (\d) on \S+\] was killed by signal 9 \(SIGKILL\)", ended.output) == ["1"]


def test_when_all_ranks_fail_one_of_them_says_so(tmp_path: Path) -> None:
    script = "import launch; job = launch.Job(); raise ValueError('bad input')"
    ended = run("mpirun", script, tmp_path)
    assert ended.code != 0
    assert ended.output.count("ValueError: bad input") == 1
    assert "[rank 0 on" in ended.output


@pytest.mark.parametrize(
    "fault",
    [
        "raise KeyError('no such thing')",
        "job = launch.Job(device='cuda' if os.environ[RANK] == '1' else 'cpu')",
        "job = launch.Job(); data.DataLoader(range(8 + job.rank), 4, comm=job.comm)",
    ],
    ids=["exception", "wrong argument", "different data"],
)
def test_a_rank_that_fails_at_the_start_ends_the_job(fault: str, tmp_path: Path) -> None:
    condition = "" if "launch" in fault else "if os.environ[RANK] == '1': "
    script = f"""
        import os
        import launch
        from dtrain import data

        RANK = next(name for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK") if name in os.environ)
        {condition}{fault}
        job = launch.Job()
        job.comm.barrier()
    """
    ended = run("mpirun", script, tmp_path)
    assert ended.code != 0
    assert len(re.findall(r"^(?:KeyError|ValueError): ", ended.output, re.MULTILINE)) == 1


def test_an_orderly_end(tmp_path: Path) -> None:
    script = """
        import sys, time
        import launch

        job = launch.Job()
        try:
            sys.exit(5)
        except SystemExit as error:  # caught: not an end
            assert error.code == 5 and error.args == (5,)
        requests = [job.comm.start(lambda comm: comm.barrier()) for _ in range(10)]
        if job.rank == 0:
            sys.exit()  # early; the others still have work to do
        time.sleep(0.5)
        print("saved by", job.rank)
    """
    ended = run("mpirun", script, tmp_path)
    assert ended.code == 0
    assert sorted(re.findall(r"saved by (\d)", ended.output)) == ["1", "2"]


@pytest.mark.parametrize("launcher", [*LAUNCHERS, "launch --restarts 3"])
def test_no_rank_and_no_memory_outlives_a_killed_launcher(launcher: str, tmp_path: Path) -> None:
    before = set(os.listdir(SHM))
    script = """
        import os, time
        import launch

        job = launch.Job()
        job.comm.barrier()
        print("process", os.getpid(), flush=True)
        time.sleep(60)
    """
    with start(launcher, script, tmp_path) as process:
        assert process.stdout is not None
        ranks: list[int] = []
        while len(ranks) < 3:
            line = process.stdout.readline()
            assert line, "the job ended before it was killed"
            ranks += [int(pid) for pid in re.findall(r"process (\d+)", line)]
        assert all(map(_runs, ranks))
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 30
        while any(map(_runs, ranks)) and time.monotonic() < deadline:
            time.sleep(0.02)
        alive = [pid for pid in ranks if _runs(pid)]
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
    assert not alive
    assert not {name for name in set(os.listdir(SHM)) - before if NAMES.match(name)}


def _runs(pid: int) -> bool:
    """Whether this process is there, and not only as a zombie that nobody has waited for."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_deadlock_under_pytest_becomes_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.mpi.conftest import *\n")
    (tmp_path / "test_deadlock.py").write_text(
        "def test_deadlock(comm):\n    assert comm.rank != 1, 'one leaves'\n    comm.barrier()\n"
    )
    tests = str(tmp_path)
    ended = run("mpirun", f"import pytest; raise SystemExit(pytest.main([{tests!r}]))", tmp_path, 2)
    assert ended.code != 0
    assert re.search(r"\[rank 1\] \S*test_deadlock.py::test_deadlock FAILED, other ranks hang", ended.output)
    assert "AssertionError: one leaves" in ended.output


def test_a_rank_that_leaves_to_be_resumed_is_not_ended_on_its_way_out(tmp_path: Path) -> None:
    """As soon as one rank has ended with 75, srun sends SIGTERM to the others, and would give their code instead."""
    script = """
        import atexit, os, signal
        import launch
        from dtrain.checkpoint import STOPPED, Stopped

        job = launch.Job()
        atexit.register(os.kill, os.getpid(), signal.SIGTERM)
        raise Stopped(STOPPED)
    """
    assert run("mpirun", script, tmp_path).code == 75
