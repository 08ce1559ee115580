"""python -m launch --survive: ranks are killed, the others go on, with the bits of the undisturbed run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dtrain.comm import SingleCommunicator
from tests.launch.jobs import needs_survival, run
from tests.parallel.training import train_with_one_thread

pytestmark = needs_survival

# DEATHS[r]: the step in whose backward pass the rank that is r at first dies.
TRAINING = """
import os, signal
import dtrain, launch
from tests.parallel.training import train

job = launch.Job(microbatches=5, threads=1, timeout=20.0)
me = job.rank

class Mortal(dtrain.DistributedDataParallel):
    def open_microbatch(self):
        if {deaths}.get(me) == self._step:
            os.kill(os.getpid(), signal.SIGKILL)
        super().open_microbatch()

sha256, losses = train(job.comm, 5, wrap=Mortal, overlap={overlap})
job.print(f"{{sha256}} after {{len(losses)}} steps on {{job.size}} ranks")
"""


@pytest.fixture(scope="module")
def undisturbed() -> str:
    sha256, losses = train_with_one_thread(SingleCommunicator(), 5)
    return f"{sha256} after {len(losses)} steps"


@pytest.mark.parametrize(
    "deaths, overlap",
    [({0: 3}, False), ({1: 2, 2: 2, 0: 4}, False), ({3: 0, 0: 1, 2: 5}, False), ({2: 0, 1: 3}, True)],
    ids=["rank 0", "two at once", "one by one, from the first step to the last", "helper thread"],
)
def test_the_survivors_end_with_the_bits_of_all(
    deaths: dict[int, int], overlap: bool, undisturbed: str, tmp_path: Path
) -> None:
    ended = run("launch --survive", TRAINING.format(deaths=deaths, overlap=overlap), tmp_path, ranks=4)
    assert ended.code == 0
    assert ended.output.count(undisturbed) == 1
    assert f"on {4 - len(deaths)} ranks" in ended.output
    assert len(re.findall(r"rank \d \(\d+ on \S+\)", ended.output)) == len(deaths)


RETRIED = """
import os, signal
import numpy as np
import launch

job = launch.Job(timeout=20.0)
me = job.rank

def count():
    ranks = np.ones(1, np.int64)
    if me == job.size - 1 > 1:  # 3, then 2
        os.kill(os.getpid(), signal.SIGKILL)
    job.comm.allreduce_(ranks)
    return int(ranks[0])

print("counted", job.retry(count))
"""


def test_what_is_retried_is_finished_by_the_survivors(tmp_path: Path) -> None:
    ended = run("launch --survive", RETRIED, tmp_path, ranks=4)
    assert ended.code == 0
    assert re.findall(r"counted (\d)", ended.output) == ["2", "2"]


STARTS = """
import os, pathlib, signal

rank, first = os.environ["OMPI_COMM_WORLD_RANK"], pathlib.Path("{mark}")
if {before} and rank == "1" and not first.exists():
    first.touch()
    os.kill(os.getpid(), signal.SIGKILL)
import launch

job = launch.Job(timeout=20.0)
if rank == "1" and not first.exists():
    first.touch()
    os.kill(os.getpid(), signal.SIGKILL)
job.comm.barrier()  # no step, and not retried
job.print("fine on", job.size)
"""


@pytest.mark.parametrize("before", [True, False], ids=["before the job has started", "outside of a step"])
def test_elsewhere_the_job_is_restarted(before: bool, tmp_path: Path) -> None:
    script = STARTS.format(mark=tmp_path / "mark", before=before)
    ended = run("launch --survive --restarts 1", script, tmp_path)
    assert ended.code == 0
    assert "restart 1 of 1" in ended.output and "fine on 3" in ended.output
    assert before or "RankLost" in ended.output


END = """
import os, signal
import launch

job = launch.Job(timeout=20.0)
job.retry(job.comm.barrier)
if {dies}:
    os.kill(os.getpid(), signal.SIGKILL)
job.print("finished by", job.rank)
"""


@pytest.mark.parametrize("dies, code", [("True", 1), ("job.rank == 0", 1), ("job.rank > 0", 0)])
def test_a_job_is_done_when_rank_0_has_left_in_order(dies: str, code: int, tmp_path: Path) -> None:
    """The launcher says 0 even if all are killed."""
    ended = run("launch --survive", END.format(dies=dies), tmp_path)
    assert ended.code == code
    assert ("finished by 0" in ended.output) == (code == 0)
    assert ("the ranks that should have finished the job were killed" in ended.output) == (code == 1)
