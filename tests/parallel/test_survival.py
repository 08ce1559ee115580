"""Ranks die at every moment of a short training, and those that are left end with its bits."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

import dtrain
from dtrain import nn, optim
from dtrain.comm import Communicator, RankLost, SingleCommunicator
from dtrain.data import DataLoader
from dtrain.nn import functional as F
from tests.parallel.mortal import MortalCommunicator, run_mortals

MICROBATCHES = 5


class Samples:
    x = np.random.Generator(np.random.Philox(key=1)).standard_normal((34, 3)).astype("f")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.x[i], int(self.x[i].sum() > 0)


def train(comm: Communicator, every: int = 1, norm: type = nn.BatchNorm1d, **options: object) -> bytes:
    """Two epochs of three steps, an evaluation after each; an optimizer's step after every so many steps."""
    dtrain.manual_seed(3)
    comm.settle_microbatches(MICROBATCHES)
    net = nn.Sequential(nn.Linear(3, 4), norm(4), nn.ReLU(), nn.Dropout(0.2), nn.Linear(4, 2))
    loader = DataLoader(Samples(), 12, shuffle=True, comm=comm, num_workers=0)
    model = dtrain.DistributedDataParallel(net, comm, **options)  # type: ignore[arg-type]
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    steps, losses = 0, []
    if comm.size > 1:
        die_in(comm)

    def mean_over_ranks() -> float:
        total = np.array([model.loss / comm.size])
        comm.allreduce_(total)
        return round(float(total[0]), 6)

    for _ in range(2):
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            if model.synchronized:
                steps += 1
                losses.append(model.loss)
                if steps % every == 0:
                    optimizer.step()
                    optimizer.zero_grad()
        done = False
        while not done:
            done, mean = comm.attempt(mean_over_ranks)
        losses.append(mean)
    assert loader.samples_consumed == 34
    return b"".join(v.numpy().tobytes() for v in model.state_dict().values()) + np.array([steps, *losses]).tobytes()


OPTIONS = {
    "shared memory": {},
    "helper thread": {"overlap": True},
    "gradients kept": {"every": 2},
    "ledger": {"ledger": 1},
    "SyncBatchNorm": {"norm": nn.SyncBatchNorm},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_one_rank_of_three_dies_at_any_moment(options: str) -> None:
    want = train(SingleCommunicator(), **OPTIONS[options])
    undisturbed, world = run_mortals(3, lambda comm: train(comm, **OPTIONS[options]), {})
    assert set(undisturbed.values()) == {want}
    for rank in range(3):
        for moment in range(1, world.moments[rank] + 1):
            results, _ = run_mortals(3, lambda comm: train(comm, **OPTIONS[options]), {rank: moment})
            assert results == {r: want for r in range(3) if r != rank}, f"rank {rank} died at its moment {moment}"


@pytest.mark.parametrize("options", OPTIONS)
def test_several_ranks_die_at_random_moments(options: str) -> None:
    rng = random.Random(options)
    want = train(SingleCommunicator(), **OPTIONS[options])
    for _ in range(20):
        deaths = {r: rng.randrange(1, 150) for r in rng.sample(range(4), rng.randrange(2, 4))}
        results, _ = run_mortals(4, lambda comm: train(comm, **OPTIONS[options]), deaths)
        assert results and set(results.values()) == {want}, f"died: {deaths}"


def without_a_loader(comm: Communicator) -> None:
    model = dtrain.DistributedDataParallel(nn.Linear(3, 2), comm)
    die_in(comm)
    for _ in model.block:
        model(dtrain.ones((2, 3))).sum().backward()


def with_two_models(comm: Communicator) -> None:
    models = [dtrain.DistributedDataParallel(nn.Linear(3, 2), comm) for _ in range(2)]
    loader = DataLoader(Samples(), 12, comm=comm)
    die_in(comm)
    for x, y in loader:
        for model in models:
            F.cross_entropy(model(x), y).backward()


def in_no_sync(comm: Communicator) -> None:
    model = dtrain.DistributedDataParallel(nn.Linear(3, 2), comm)
    batches = iter(DataLoader(Samples(), 12, comm=comm))
    with model.no_sync():
        for (x, y), _ in zip(batches, model.block, strict=False):
            F.cross_entropy(model(x), y).backward()
    die_in(comm)
    for x, y in batches:
        F.cross_entropy(model(x), y).backward()


def die_in(comm: Communicator) -> None:
    assert isinstance(comm, MortalCommunicator)
    comm.begin_to_die()


@pytest.mark.parametrize(
    "training, reason",
    [
        (without_a_loader, "its samples do not come from a DataLoader"),
        (with_two_models, "several models are trained"),
        (in_no_sync, r"the gradients of the steps before it, in no_sync\(\), are lost too"),
    ],
)
def test_a_step_that_cannot_be_done_again(training: Callable[[Communicator], None], reason: str) -> None:
    with pytest.raises(RankLost, match=f"ranks were lost in step ., and it cannot be done again: {reason}"):
        run_mortals(3, training, {1: 1})
