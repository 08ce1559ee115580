"""A small training run with everything in it whose state a checkpoint must keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import dtrain
from dtrain import data, nn, optim
from dtrain.checkpoint import Checkpointer
from dtrain.comm import Communicator
from dtrain.nn import functional as F
from tests.parallel.training import fingerprint

__all__ = ["STEPS", "Net", "train"]

STEPS = 8  # of 5 per epoch: the run ends in its second epoch


class Net(nn.Module):
    """Convolution, BatchNorm, Dropout; `late` is first used in step 4, `never` is not."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.dropout, self.linear = nn.Dropout(0.4), nn.Linear(width * 16, 5)
        self.late, self.never = nn.Linear(width * 16, 5), nn.Linear(2, 2)
        self.steps = 0

    def forward(self, x: Any) -> Any:
        x = self.dropout(F.relu(self.norm(self.conv(x))).flatten(1))
        return self.linear(x) + self.late(x) if self.steps >= 4 else self.linear(x)


OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "sgd": lambda ps: optim.SGD(ps, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda ps: optim.AdamW(ps, lr=0.01, amsgrad=True),
    "rmsprop": lambda ps: optim.RMSprop(ps, lr=0.01, momentum=0.5, centered=True),
}


def train(
    comm: Communicator,
    directory: Path | None,
    *,
    steps: int = STEPS,
    every: int | None = 1,
    optimizer: str = "sgd",
    microbatches: int = 6,
    width: int = 4,
    resume: bool = True,
    after_step: Callable[[Checkpointer], None] = lambda checkpoint: None,
) -> tuple[str, list[float], int]:
    """The fingerprint of the trained state, the losses since the start or resume, and the step there."""
    dtrain.manual_seed(3)
    rng = np.random.Generator(np.random.Philox(key=7))
    x, y = rng.standard_normal((47, 1, 4, 4)).astype(np.float32), rng.integers(0, 5, 47)
    net = Net(width)
    model = dtrain.DistributedDataParallel(net, comm, microbatches)
    optimizer_ = OPTIMIZERS[optimizer](model.parameters())
    schedule = optim.lr_scheduler.OneCycleLR(optimizer_, 0.1, STEPS)
    loader = data.DataLoader(data.ArrayDataset(x, y), 10, shuffle=True, comm=comm, microbatches=microbatches)
    checkpoint = Checkpointer(
        directory, comm, every=every, model=model, optimizer=optimizer_, schedule=schedule, loader=loader
    )
    if resume:
        checkpoint.resume()
    losses, began = [], checkpoint.steps
    while checkpoint.steps < steps:
        net.steps = checkpoint.steps
        for images, labels in loader:
            F.cross_entropy(model(images), labels).backward()
            if model.synchronized:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer_.step()
                optimizer_.zero_grad()
                schedule.step()
                losses.append(model.loss)
                net.steps += 1
                checkpoint.step()
                after_step(checkpoint)
                if checkpoint.steps == steps:
                    break
    checkpoint.close()
    return fingerprint(net), losses, began
