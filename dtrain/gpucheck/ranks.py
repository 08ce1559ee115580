"""Jobs of one and of two ranks on GPUs: the same bits, and steps a second.

As a program it is such a rank: `python -m launch -n 2 .../ranks.py`.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from typing import Any

import numpy as np

import dtrain
import launch
from dtrain import nn, optim
from dtrain.nn import functional

__all__ = ["of_ranks", "rank"]

MICROBATCHES = 4


def of_ranks(ranks: int, steps: int = 30) -> dict[str, Any]:
    """What a job of so many ranks, that share the GPUs of this machine, comes to: sha256, way, steps_per_second."""
    command = [sys.executable, "-m", "launch", "-n", str(ranks), __file__, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"sha256"')]
    if done.returncode or len(lines) != 1:
        raise RuntimeError(
            f"{' '.join(command)} ended with code {done.returncode}: {(done.stdout + done.stderr)[-1500:]}"
        )
    found: dict[str, Any] = json.loads(lines[0])
    return found


def _model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 10),
    )  # fmt: skip


def rank(steps: int) -> None:
    """Train as one of the ranks of a job; rank 0 says what came of it."""
    job = launch.Job(seed=0, microbatches=MICROBATCHES, threads=1, device="cuda")
    model = dtrain.DistributedDataParallel(_model().to(job.device), job.comm)
    optimizer = optim.AdamW(model.parameters(), lr=1e-3)
    start = time.perf_counter()
    for step in range(steps):
        if step == min(5, steps - 1):
            _ = model.loss  # waits
            start = time.perf_counter()
        for j in model.block:
            rng = np.random.default_rng((step, j))
            x = dtrain.tensor(rng.standard_normal((32, 3, 32, 32)).astype(np.float32), device=job.device)
            y = dtrain.tensor(rng.integers(0, 10, 32), device=job.device)
            functional.cross_entropy(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    loss = model.loss
    rate = (steps - min(5, steps - 1)) / (time.perf_counter() - start)
    digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in model.state_dict().values())).hexdigest()
    way = "one rank" if job.size == 1 else "the host's memory" if job.comm.nccl is None else "NCCL"
    job.print(json.dumps({"sha256": digest, "loss": loss, "way": way, "steps_per_second": round(rate, 2)}))


if __name__ == "__main__":
    rank(int(sys.argv[1]))
