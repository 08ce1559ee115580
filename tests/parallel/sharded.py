"""A training run with all that makes the shards of an optimizer's state move, for tests on threads and over MPI."""

from __future__ import annotations

from typing import Any

import numpy as np

import dtrain
from dtrain import nn, optim
from dtrain.autograd import Tensor
from dtrain.comm import Communicator
from dtrain.nn import functional as F
from dtrain.parallel import ZeroRedundancyOptimizer

__all__ = ["MICROBATCHES", "OPTIMIZERS", "Run", "plain"]

MICROBATCHES = 4
OPTIMIZERS: list[tuple[type[optim.Optimizer], dict[str, Any]]] = [
    (optim.SGD, {"lr": 0.1}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.01}),
    (optim.Adam, {"lr": 0.05, "amsgrad": True}),
    (optim.AdamW, {"lr": 0.05}),
    (optim.RMSprop, {"lr": 0.01, "momentum": 0.5, "centered": True}),
    (optim.Adadelta, {"lr": 0.5}),
    (optim.Adagrad, {"lr": 0.05, "initial_accumulator_value": 0.1}),
    (optim.Adamax, {"lr": 0.05}),
    (optim.ASGD, {"lr": 0.05, "t0": 2}),
    (optim.NAdam, {"lr": 0.05}),
    (optim.RAdam, {"lr": 0.05}),
    (optim.Rprop, {"lr": 0.01}),
]


class Net(nn.Module):
    """Some of its parameters are not used in every step, some are never trained, some join later."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.sometimes, self.frozen = nn.Linear(6, 7), nn.Linear(7, 7), nn.Linear(7, 7)
        self.double, self.last = nn.Linear(7, 5).double(), nn.Linear(5, 3)
        self.frozen.requires_grad_(False)
        self.extra = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.frozen(F.relu(self.first(x)))
        x = self.sometimes(x) if self.extra else x
        return self.last(self.double(x.double()).float())


class Run:
    """A training run that can go on from a state."""

    def __init__(
        self, comm: Communicator, optimizer: tuple[type[optim.Optimizer], dict[str, Any]], shard: bool
    ) -> None:
        dtrain.manual_seed(1)
        self.net, self.comm, self.done = Net(), comm, 0
        self.model = dtrain.DistributedDataParallel(self.net, comm, MICROBATCHES)
        make, options = optimizer
        layers: list[nn.Module] = [self.net.first, self.net.sometimes, self.net.frozen, self.net.double]
        groups = [{"params": [*layers[0].parameters(), *layers[1].parameters()]}]
        groups += [{"params": [*layers[2].parameters(), *layers[3].parameters()], "lr": 0.02}]
        self.optimizer = ZeroRedundancyOptimizer(groups, make, comm, **options) if shard else make(groups, **options)
        self.schedule = optim.lr_scheduler.StepLR(self.optimizer, 2)

    def train(self, until: int) -> None:
        rng = np.random.Generator(np.random.Philox(key=2))
        x, y = rng.standard_normal((8, MICROBATCHES, 3, 6)).astype("f"), rng.integers(0, 3, (8, MICROBATCHES, 3))
        for step in range(self.done, until):
            if step == 3:
                self.optimizer.add_param_group({"params": self.net.last.parameters(), "weight_decay": 0.1})
                self.schedule.base_lrs.append(0.01)
                self.schedule._last_lr.append(0.01)
            self.net.extra = step % 3 == 1
            for j in self.model.block:
                F.cross_entropy(self.model(dtrain.tensor(x[step, j])), dtrain.tensor(y[step, j])).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=step != 2)
            if step < 3:
                self.schedule.step()
        self.done = until

    def state(self, to: int | None = None) -> dict[str, Any]:
        if isinstance(self.optimizer, ZeroRedundancyOptimizer):
            self.optimizer.consolidate_state_dict(to)
        return self.optimizer.state_dict()


def plain(state: dict[str, Any]) -> dict[str, Any]:
    """A state dict that can be compared: arrays by dtype, shape and bytes."""
    tensors = {
        number: {
            k: v if isinstance(v, int | float) else (str(v.dtype), v.shape, v.array.tobytes())
            for k, v in values.items()
        }
        for number, values in state["state"].items()
    }
    return {"state": tensors, "param_groups": state["param_groups"]}
