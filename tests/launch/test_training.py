"""A rank fails in the middle of an epoch of real training, or ranks do not fit together: the job ends and says why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.launch.jobs import LAUNCHERS, needs_mpi, run

pytestmark = needs_mpi

TRAINING = """
import os, signal, sys
import numpy as np
import dtrain, launch
from dtrain import data, nn, optim
from dtrain.nn import functional as F

class Samples(data.Dataset):
    def __len__(self):
        return 10**6
    def __getitem__(self, i):
        if {in_data} and i >= 4000 and job.rank == 1:
            raise OSError("the disk of rank 1 is gone")
        return np.full(8, i % 7, np.float32), i % 5

job = launch.Job(seed=0, microbatches=6)
net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
{before}
model = dtrain.DistributedDataParallel(net, job.comm, microbatches=6, overlap={overlap})
optimizer = optim.SGD(model.parameters(), lr=0.01)
loader = data.DataLoader(Samples(), batch_size=48, comm=job.comm, microbatches=6)
for step, (x, y) in enumerate(job.progress(loader)):
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    if model.synchronized:
        optimizer.step()
        optimizer.zero_grad()
    if step == 100 and job.rank == 1:
        {fault}
"""

FAULTS = {
    "exception": ("raise KeyError('no such thing')", "KeyError: 'no such thing'"),
    "exit": ("sys.exit(3)", "left with exit code 3"),
    "bad label": ("F.cross_entropy(net(x), y + 3)", "IndexError: cross_entropy: target"),
    "NaN": (
        "net[0].weight.data.fill_(float('nan'))",
        r"FloatingPointError: the loss is nan at step 50, microbatch 3.*rank 1",
    ),
}


def script(fault: str = "pass", before: str = "", in_data: bool = False, overlap: bool = False) -> str:
    return TRAINING.format(fault=fault, before=before, in_data=in_data, overlap=overlap)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_one_rank_fails(fault: str, overlap: bool, tmp_path: Path) -> None:
    code, message = FAULTS[fault]
    ended = run("mpirun", script(code, overlap=overlap), tmp_path)
    assert ended.code != 0
    assert re.findall(r"\[rank (\d) on \S+\]", ended.output) == ["1"]
    assert len(re.findall(message, ended.output)) == 1


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_one_rank_is_killed(launcher: str, tmp_path: Path) -> None:
    ended = run(launcher, script("os.kill(os.getpid(), signal.SIGKILL)"), tmp_path)
    assert ended.code != 0
    assert re.findall(r"\[rank (\d) on \S+\] was killed by signal 9 \(SIGKILL\)", ended.output) == ["1"]


def test_reading_the_data_fails_on_one_rank(tmp_path: Path) -> None:
    ended = run("mpirun", script(in_data=True), tmp_path)
    assert ended.code != 0
    assert ended.output.count("OSError: the disk of rank 1 is gone") == 1


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (
            "if job.rank == 2: net[2].bias.data.fill_(0.5)",
            r"RuntimeError: the modules of rank 0 and rank 2 differ: .*2\.bias",
        ),
        ("net = nn.Linear(8, 5 + job.rank)", r"RuntimeError: the modules of rank 0 and rank 1 differ: .*weight"),
        ("net.load_state_dict(nn.Linear(8, 5).state_dict())", r"missing: 0\.weight.*\n.*unexpected: weight"),
        ("net(dtrain.ones(2, 9))", r"ValueError: linear: input of shape \(2, 9\).*\(16, 8\)"),
    ],
    ids=["values", "shapes", "state dict", "input"],
)
def test_what_does_not_fit(before: str, message: str, tmp_path: Path) -> None:
    ended = run("mpirun", script(before=before), tmp_path)
    assert ended.code != 0
    assert len(re.findall(message, ended.output)) == 1
