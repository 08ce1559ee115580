"""A job fails in the middle of a step and leaves a capsule; one process replays the step."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.jobs import environment, needs_mpi, run

TRAINING = """
import numpy as np
import dtrain, launch
from dtrain import data, nn, optim
from dtrain.checkpoint import Checkpointer
from dtrain.parallel import DiLoCo, ZeroRedundancyOptimizer
from dtrain.parallel.hooks.default_hooks import allreduce_hook
from dtrain.nn import functional as F

class Samples(data.Dataset):
    def __len__(self):
        return 120
    def __getitem__(self, i):
        return np.full(8, i % 7, np.float32), {label}

job = launch.Job(seed=4, microbatches=6)
net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 5))
{make}
loader = data.DataLoader(Samples(), 24, shuffle=True, comm=job.comm)
checkpoint = Checkpointer({directory!r}, job.comm, every=2, model=model, optimizer=optimizer, loader=loader)

def corrupt(reducers, step):
    give(reducers, step)
    if job.rank == 1 and step == 7:
        net[0].bias.grad.array[3] += 1

if {corrupt} == "gradients":
    give, model._gradients.give = model._gradients.give, corrupt

def flip():
    if {corrupt} == "parameters" and job.rank == 1 and model.position["steps"] == 8:
        net[0].bias.array[3] += 1

for epoch in range(3):
    for x, y in job.progress(loader):
        loss = F.cross_entropy(model(x), y)
        if checkpoint.steps == 7 and {condition}:
            {fault}
        loss.backward()
        if model.synchronized or isinstance(model, DiLoCo):
            optimizer.step()
            flip()
            optimizer.zero_grad()
        if model.synchronized:
            checkpoint.step()
"""
MAKE = """
model = dtrain.DistributedDataParallel(net, job.comm, ledger=1)
optimizer = optim.AdamW(model.parameters(), lr=0.01)
"""
IN_PARTS = {
    "ZeRO": """
model = dtrain.DistributedDataParallel(net, job.comm)
optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.AdamW, job.comm, lr=0.01)
""",
    "DiLoCo": """
model = DiLoCo(net, optim.AdamW(net.parameters(), lr=0.01), job.comm, sync_every=3)
optimizer = model.optimizer
""",
}
# A communication hook, which a helper thread calls.
HOOK = """
model = dtrain.DistributedDataParallel(net, job.comm, overlap=True)
optimizer = optim.AdamW(model.parameters(), lr=0.01)

def hook(state, bucket):
    if checkpoint.steps == 7:
        raise ValueError(f"a hook cannot go on from step {checkpoint.steps}")
    return allreduce_hook(state, bucket)

model.register_comm_hook(None, hook)
"""


def failed(folder: Path, launcher: str, ranks: int, **faults: object) -> list[Path]:
    """Run the job; the capsules that it says it has left."""
    options = {"make": MAKE, "label": "i % 5", "directory": str(folder / "run"), "corrupt": None, "condition": "False"}
    script = TRAINING.format(**{**options, "fault": "pass", **faults})
    ended = run(launcher, script, folder, ranks)
    assert ended.code != 0
    return [Path(path) for path in re.findall(r"python -m launch replay (\S+)", ended.output)]


def replay(capsule: Path, *options: str, typed: str = "") -> tuple[int, str]:
    command = [sys.executable, "-m", "launch", "replay", str(capsule), *options]
    done = subprocess.run(
        command, input=typed, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("launcher", ["python", pytest.param("mpirun", marks=needs_mpi)])
def test_an_exception_comes_again(launcher: str, tmp_path: Path) -> None:
    """The dropped-out loss is in its text: it is that of the same weights, samples and random draws."""
    fault = "raise RuntimeError(f'bad luck, loss {loss.item()!r}')"
    (capsule,) = failed(tmp_path, launcher, 3, condition="x.microbatch[0] == 4", fault=fault)
    assert capsule.name == f"capsule-rank-{2 if launcher == 'mpirun' else 0}-step-00000007"
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    for options in ([], ["--microbatch", "4"]):
        code, output = replay(capsule, *options)
        assert code == 0 and "the same error" in output and "RuntimeError: bad luck, loss" in output, output
    code, output = replay(capsule, "--microbatch", "3")
    assert code == 1 and "replayed step 7, microbatch 3: microbatch 3 has no error" in output
    code, output = replay(capsule, "--pdb", typed="p checkpoint.steps, x.microbatch\nq\n")
    assert code == 0 and "(7, (4, 6))" in output
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


@needs_mpi
def test_a_loss_that_is_nan_and_a_bad_label(tmp_path: Path) -> None:
    for name, faults in (
        (
            "FloatingPointError: the loss is nan at step 7",
            {"condition": "x.microbatch[0] == 2", "fault": "loss = loss * float('nan')"},
        ),
        ("IndexError: cross_entropy: target", {"label": "9 if i == 117 else i % 5"}),
    ):
        folder = tmp_path / name[:5]
        folder.mkdir()
        (capsule, *_) = failed(folder, "mpirun", 2, **faults)
        code, output = replay(capsule)
        assert code == 0 and name in output and "the same error" in output, output


@needs_mpi
@pytest.mark.parametrize(("corrupt", "steps"), [("gradients", "step 7, all"), ("parameters", "steps 6 to 7")])
def test_what_differs_between_ranks(corrupt: str, steps: str, tmp_path: Path) -> None:
    """One process has nothing to compare with, but what the rank had that was right, and the one that was wrong."""
    capsules = failed(tmp_path, "mpirun", 2, corrupt=repr(corrupt))
    assert capsules
    for capsule in capsules:
        right = "rank-0" in capsule.name
        code, output = replay(capsule)
        assert code == (0 if right else 1), output
        assert f"replays {steps}" in output and "came Divergence" in output
        assert f"no error, and {'the same' if right else 'other'} {corrupt}" in output, output


@pytest.mark.parametrize("launcher", ["python", pytest.param("mpirun", marks=needs_mpi)])
@pytest.mark.parametrize("kind", IN_PARTS)
def test_state_that_lies_in_parts_is_taken_from_the_checkpoint_before(kind: str, launcher: str, tmp_path: Path) -> None:
    """The failing rank has not the other ranks' parts; the steps since the checkpoint are run again, on all workers."""
    fault = {"condition": "x.microbatch[0] == 4", "fault": "raise RuntimeError(f'bad luck, loss {loss.item()!r}')"}
    (capsule,) = failed(tmp_path, launcher, 3, make=IN_PARTS[kind], **fault)
    code, output = replay(capsule)
    # Rank 0 may still have been writing the checkpoint of step 6 when another rank failed.
    assert code == 0 and re.search("replayed steps [46] to 7: the same error", output), output
    code, output = replay(capsule, "--microbatch", "4")
    assert code == 2 and "the capsule is of several steps" in output


@needs_mpi
def test_an_error_on_the_helper_thread_comes_again(tmp_path: Path) -> None:
    capsules = failed(tmp_path, "mpirun", 2, make=HOOK)
    assert capsules
    for capsule in capsules:
        code, output = replay(capsule)
        assert code == 0 and "ValueError: a hook cannot go on from step 7" in output, output


def test_no_capsule_between_steps_and_no_replay_without_one(tmp_path: Path) -> None:
    assert failed(tmp_path, "python", 1, condition="x.microbatch[0] == 5", fault="loss.backward(); 0 / 0") == []
    code, output = replay(tmp_path / "nowhere")
    assert code == 2 and "is no whole capsule: checkpoint.json is missing" in output
    code, output = replay(tmp_path / "run" / "step-00000006")
    assert code == 2 and "is no whole capsule" in output
