"""Training with DiLoCo for tests on threads and over MPI, and the same in one process as simply as it can be said."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import dtrain
from dtrain import nn, optim
from dtrain.autograd import Tensor
from dtrain.backend.random import key
from dtrain.comm import Communicator
from dtrain.nn import functional as F
from dtrain.parallel import DiLoCo
from dtrain.parallel.tree import naive_sum
from tests.parallel.training import fingerprint, make_net

__all__ = ["INNER", "NESTEROV", "Net", "Run", "batches", "loss_of", "train_naively"]

NESTEROV = functools.partial(optim.SGD, lr=0.7, momentum=0.9, nesterov=True)
INNER: dict[str, Callable[[Any], optim.Optimizer]] = {
    "AdamW": functools.partial(optim.AdamW, lr=0.01),
    "SGD": functools.partial(optim.SGD, lr=0.1, momentum=0.9),
}


class Net(nn.Module):
    """With BatchNorm and Dropout, a layer that is not always used, one that is frozen, and two dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.sometimes, self.frozen = make_net(), nn.Linear(5, 5), nn.Linear(5, 5)
        self.double = nn.Linear(5, 5).double()
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor, extra: bool) -> Tensor:
        x = self.body(x)
        x = self.sometimes(x) if extra else x
        return self.double(self.frozen(x).double())


def batches(microbatches: int, steps: int) -> list[list[tuple[np.ndarray, np.ndarray, bool]]]:
    """[step][worker] -> images, labels, whether the layer is used; some are empty, for a whole round too."""
    rng = np.random.Generator(np.random.Philox(key=7))
    sizes = rng.integers(0, 5, (steps, microbatches))
    sizes[:, 0], sizes[: steps // 2, -1] = 3, 0
    return [
        [(rng.standard_normal((n, 1, 4, 4)).astype("f"), rng.integers(0, 5, n), (s + j) % 5 == 4)
         for j, n in enumerate(row)]
        for s, row in enumerate(sizes.tolist())
    ]  # fmt: skip


def loss_of(model: Any, batch: Any) -> Tensor:
    x, y, extra = batch
    return F.cross_entropy(model(dtrain.tensor(x), extra), dtrain.tensor(y))


class Run:
    def __init__(
        self, comm: Communicator, microbatches: int, inner: Any, sync_every: int, outer: Any = NESTEROV
    ) -> None:
        dtrain.manual_seed(3)
        self.net = Net()
        self.inner = inner(self.net.parameters())
        self.model = DiLoCo(self.net, self.inner, comm, microbatches, sync_every=sync_every, outer=outer)
        self.optimizer = self.model.optimizer

    def train(self, steps: list[Any]) -> None:
        for batches in steps:
            for j in self.optimizer.block:
                loss_of(self.model, batches[j]).backward()
                self.optimizer.step()
                self.optimizer.zero_grad()

    def fingerprint(self) -> str:
        return fingerprint(self.model)


def train_naively(
    net: nn.Module,
    steps: Sequence[Sequence[Any]],
    loss_of: Callable[[nn.Module, Any], Tensor],
    make_inner: Callable[[Any], Any],
    make_outer: Callable[[Any], Any],
    sync_every: int,
) -> None:
    """Train `net`; steps[s][j] is what worker j gets in step s, and len(steps[s][j][0]) its number of samples."""
    workers = [copy.deepcopy(net) for _ in steps[0]]
    inners = [make_inner(worker.parameters()) for worker in workers]
    outer = make_outer(net.parameters())
    trained: list[set[int]] = [set() for _ in workers]
    samples = [0 for _ in workers]
    for s, batches in enumerate(steps):
        for j, (worker, inner, batch) in enumerate(zip(workers, inners, batches, strict=True)):
            if len(batch[0]) == 0:
                continue
            key.move_to(s, j)
            loss_of(worker, batch).backward()
            samples[j] += len(batch[0])
            trained[j] |= {i for i, p in enumerate(worker.parameters()) if p.grad is not None}
            inner.step()
            inner.zero_grad()
        if (s + 1) % sync_every:
            continue
        count = sum(n > 0 for n in samples)
        for i, p in enumerate(net.parameters()):
            if any(i in of for of in trained):
                theirs = [list(worker.parameters())[i].array for worker in workers]
                differences = [
                    p.array - q if i in of else np.zeros_like(p.array) for q, of in zip(theirs, trained, strict=True)
                ]
                p.grad = Tensor(naive_sum(differences) * p.dtype.type(1 / count))
        outer.step()
        outer.zero_grad()
        for i, b in enumerate(net.buffers()):
            theirs = [list(worker.buffers())[i].array for worker in workers]
            if b.is_floating_point():
                changes = [a - b.array if n else 0 * b.array for a, n in zip(theirs, samples, strict=True)]
                b.array[...] += naive_sum(changes) / count
            else:
                b.array[...] = theirs[0]
        for worker in workers:
            worker.load_state_dict(net.state_dict())
        trained, samples = [set() for _ in workers], [0 for _ in workers]
