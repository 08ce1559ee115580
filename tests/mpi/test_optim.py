"""Optimizers that look at whole parameters, over MPI: all ranks must get the bytes of one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import nn, optim
from dtrain.comm import Communicator, SingleCommunicator
from dtrain.nn import functional as F
from dtrain.parallel import ZeroRedundancyOptimizer
from tests.parallel.sharded import plain
from tests.parallel.training import fingerprint

MICROBATCHES = 4
WHOLE: list[tuple[type[optim.Optimizer], dict[str, Any]]] = [
    (optim.Adafactor, {"lr": 0.1}),
    (optim.LAMB, {"lr": 0.05}),
    (optim.LARS, {"lr": 0.5, "trust_coefficient": 0.1}),
    (optim.Muon, {"lr": 0.05}),
    (optim.LBFGS, {"line_search_fn": "strong_wolfe", "max_iter": 4}),
    (optim.LBFGS, {"lr": 0.3, "max_iter": 3}),
]
IDS = [f"{make.__name__}-{len(options)}" for make, options in WHOLE]


class Run:
    """A training run of five steps; what LBFGS needs, a closure, does for all of them."""

    def __init__(
        self, comm: Communicator, make: type[optim.Optimizer], options: dict[str, Any], own_loss: bool
    ) -> None:
        dtrain.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 3, bias=False))
        self.model = dtrain.DistributedDataParallel(self.net, comm, MICROBATCHES)
        self.optimizer = make(self.net.parameters(), **options)
        rng = np.random.Generator(np.random.Philox(key=2))
        x, y = rng.standard_normal((5, MICROBATCHES, 3, 6)).astype("f"), rng.integers(0, 3, (5, MICROBATCHES, 3))
        for step in range(5):
            self.batches = [(dtrain.tensor(x[step, j]), dtrain.tensor(y[step, j])) for j in self.model.block]
            self.own_loss = own_loss
            self.optimizer.step(self.closure)

    def closure(self) -> float:
        self.optimizer.zero_grad()
        for x, y in self.batches:
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()
        return loss.item() if self.own_loss else self.model.loss


def run(comm: Communicator, make: type[optim.Optimizer], options: dict[str, Any]) -> tuple[Any, ...]:
    made = Run(comm, make, options, own_loss=False)
    return fingerprint(made.net), plain(made.optimizer.state_dict()) if make is not optim.LBFGS else made.model.loss


@pytest.mark.parametrize(("make", "options"), WHOLE, ids=IDS)
def test_bytes_of_one_process(comm: Communicator, make: type[optim.Optimizer], options: dict[str, Any]) -> None:
    assert run(comm, make, options) == run(SingleCommunicator(), make, options)


def test_lbfgs_refuses_a_loss_of_this_rank_alone(comm: Communicator) -> None:
    with pytest.raises(RuntimeError, match=r"return model\.loss"):
        Run(comm, optim.LBFGS, {}, own_loss=True)


@pytest.mark.parametrize("make", sorted({make for make, _ in WHOLE}, key=lambda make: make.__name__))
def test_shards_are_refused(comm: Communicator, make: type[optim.Optimizer]) -> None:
    with pytest.raises(TypeError, match=f"the state of {make.__name__} cannot be sharded"):
        ZeroRedundancyOptimizer([nn.Parameter(dtrain.ones(2, 2))], make, comm)
