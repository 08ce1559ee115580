"""Ranks that wait in vain: the job ends, and says who is missing, where, and in which step and bucket."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dtrain.comm import Waits
from dtrain.comm.waits import Calls
from launch.watchdog import AT_THE_START, STARTED, Patience
from tests.launch.jobs import needs_mpi, run

TRAINING = """
import os, signal, sys
import dtrain, launch
from dtrain import nn
from dtrain.parallel import reducer

job = launch.Job(timeout=2.0, microbatches=6)
reducer._FIRST_BUCKET = reducer._BUCKET = 64  # several, where communication overlaps
net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
model = dtrain.DistributedDataParallel(net, job.comm, overlap={overlap})
for step in range(10**9):
    if step == 5 and job.rank == 1:
        {fault}
    for _ in model.block:
        model(dtrain.ones((2, 4))).sum().backward()
"""

# What rank 1 does in step 5, and what the others say of it.
FAULTS = {
    "is stopped": ("os.kill(os.getpid(), signal.SIGSTOP)", r"does not answer: process \d+ is stopped"),
    "loops": ("while True: pass", r"5 steps done; .*script.py:\d+ in <module>"),
    "waits elsewhere": ("job.comm.barrier()", r"5 steps done; in barrier, call \d+ of all ranks; .*script.py:\d+"),
    "leaves the loop": ("break", "5 steps done; the script is over"),
    "leaves the script": ("sys.exit()", "5 steps done; the script is over"),
}


@needs_mpi
@pytest.mark.parametrize("fault, overlap", [(fault, i % 2 == 1) for i, fault in enumerate(FAULTS)])
def test_a_rank_that_does_not_come_is_named_and_the_job_ends(fault: str, overlap: bool, tmp_path: Path) -> None:
    code, theirs = FAULTS[fault]
    ended = run("mpirun", TRAINING.format(fault=code, overlap=overlap), tmp_path)
    assert ended.code != 0
    reports = [ended.output.partition(f"[rank {rank} on ")[2].partition("\n[rank ")[0] for rank in range(3)]
    bucket, names = ("0 of 3", "1.weight") if overlap else ("0 of 1", "1.weight, 1.bias, 0.weight, 0.bias")
    for report in (reports[0], reports[2]):
        assert re.search(rf"step 5, . of this rank's 2 microbatches done; summing bucket {bucket} with the", report)
        assert f"gradients of {names}\n" in report or f"gradients of {names};" in report
        assert re.search(rf"have not arrived at call \d+ of .*:\n    rank 1: {theirs}", report)
        assert re.search(r'script.py", line \d+, in <module>\n    model\(dtrain.ones', report)
        assert overlap == ("\n  comm-rank-" in report)  # the stacks of all threads
    if "is stopped" not in fault:
        assert "watchdog: " in reports[1]
        assert "script.py" in reports[1] or "leaves" in fault


def test_patience() -> None:
    waits, calls = Waits(), Calls([0, 1])
    waits.add("all ranks", calls)
    patience = Patience(waits, timeout=10)
    with calls("barrier"):
        for _ in range(1 + AT_THE_START):  # the first look only finds out that it waits
            assert not patience.exhausted(10)
        assert patience.exhausted(0.1) == "has waited for 30.1 s, the limit is 30 s"
    waits.steps = 1  # the job has started
    for _ in range(5):
        with calls("barrier"):  # another one each time
            assert not patience.exhausted(9)
    with calls("barrier"):
        assert not patience.exhausted(9)
        assert not patience.exhausted(9)
        assert patience.exhausted(9) == "has waited for 18.0 s, the limit is 10 s"
    assert not patience.exhausted(9)


def test_many_collectives_are_a_start_too() -> None:
    waits, calls = Waits(), Calls([0, 1])
    waits.add("all ranks", calls)
    patience = Patience(waits, timeout=10)
    for _ in range(STARTED + 1):
        with calls("barrier"):
            assert not patience.exhausted(1)
    with calls("barrier"):
        assert not patience.exhausted(1)
        assert patience.exhausted(11)
