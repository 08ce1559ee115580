"""python -m launch --restarts K: a job that fails is started again, one that was asked to stop is not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch.segments import NAMES, SHM
from tests.launch.jobs import environment, needs_mpi, needs_survival, run, start

# One line for each start; the rest of the script sees how many there were.
COUNT = """
    import os, pathlib, signal, sys, time
    import launch

    job = launch.Job()
    starts = pathlib.Path(__file__).with_suffix(".starts")
    job.comm.barrier()
    if job.rank == 0:
        with open(starts, "a") as file:
            print("started", file=file)
    job.comm.barrier()
    count = len(starts.read_text().splitlines())
"""


def starts(folder: Path) -> int:
    return len((folder / "script.starts").read_text().splitlines())


@needs_mpi
def test_a_killed_rank(tmp_path: Path) -> None:
    script = (
        COUNT + "    if count < 3 and job.rank == count: os.kill(os.getpid(), signal.SIGKILL)\n    job.comm.barrier()"
    )
    before = set(os.listdir(SHM))
    ended = run("launch --restarts 5", script, tmp_path)
    assert ended.code == 0 and starts(tmp_path) == 3
    assert re.findall(r"has ended with exit code \d+ after [\d.]+ s; (restart .*)", ended.output) == [
        "restart 1 of 5",
        "restart 2 of 5",
    ]
    assert not [name for name in set(os.listdir(SHM)) - before if NAMES.match(name) and not mapped(name)]


def mapped(name: str) -> bool:
    """Whether the segment is another job's."""
    return (
        subprocess.run(["grep", "-qsF", f"{SHM}/{name}", *map(str, Path("/proc").glob("[0-9]*/maps"))]).returncode == 0
    )


@pytest.mark.parametrize(
    "end, code, count",
    [
        ("sys.exit(3)", 3, 3),
        ("os.kill(os.getpid(), signal.SIGKILL)", 128 + 9, 3),
        ("sys.exit(2)", 2, 1),
        ("sys.exit(75)", 75, 1),
        ("pass", 0, 1),
    ],
)
def test_which_ends_are_failures(end: str, code: int, count: int, tmp_path: Path) -> None:
    ended = run("launch --restarts 2", COUNT + "    " + end, tmp_path, ranks=1)
    assert ended.code == code and starts(tmp_path) == count
    assert ended.output.count("no restart is left") == (count == 3)


@needs_mpi
def test_a_signal_is_passed_on_and_is_the_end(tmp_path: Path) -> None:
    script = COUNT + (
        "    signal.signal(signal.SIGUSR1, lambda *_: print('signal on', job.rank, flush=True) or os._exit(1))\n"
        "    job.comm.barrier()\n    job.print('waits')\n    time.sleep(60)\n"
    )
    with start("launch --restarts 2", script, tmp_path, ranks=2) as process:
        assert process.stdout is not None and "waits" in process.stdout.readline()
        process.send_signal(signal.SIGUSR1)
        output, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and starts(tmp_path) == 1
    assert "signal on" in output and "restart" not in output


@needs_mpi
def test_a_killed_mpirun(tmp_path: Path) -> None:
    """Its ranks are gone before the next ones begin."""
    script = COUNT + (
        "    pids = starts.with_suffix('.pids')\n"
        "    if count == 1:\n"
        "        pids.open('a').write(f'{os.getpid()}\\n')\n"
        "        job.comm.barrier()\n"
        "        job.print('waits')\n"
        "        time.sleep(60)\n"
        "    job.print([os.path.exists(f'/proc/{pid}') for pid in pids.read_text().split()])\n"
    )
    with start("launch --restarts 2", script, tmp_path) as process:
        assert process.stdout is not None and "waits" in process.stdout.readline()
        (mpirun,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(mpirun), signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "exit code 137" in output and "[False, False, False]" in output


@needs_survival
def test_what_killed_launchers_have_left_is_in_nobodys_way(tmp_path: Path) -> None:
    """Open MPI's mpirun does not start where one of the same process number has left its files."""
    for number in range(os.getpid(), os.getpid() + 400):
        folder = tmp_path / f"ompi.{number}"
        folder.mkdir(mode=0o700)
        (folder / f"pmix.{os.uname().nodename}.tool").write_text("of another one")
    script = tmp_path / "script.py"
    script.write_text("import launch\nlaunch.Job().print('fine')\n")
    variables = environment(TMPDIR=str(tmp_path))
    del variables["PRTE_MCA_prte_local_tmpdir_base"]
    command = [sys.executable, "-m", "launch", "-n", "2", str(script)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "fine" in done.stdout, done.stdout + done.stderr
