"""ZeroRedundancyOptimizer: the bytes of the optimizer that it shards, from a part of the state on each rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dtrain
from dtrain import nn, optim
from dtrain.checkpoint import Checkpointer
from dtrain.comm import Communicator, ThreadCommunicator, run_ranks
from dtrain.parallel import ZeroRedundancyOptimizer, zero
from tests.parallel.sharded import MICROBATCHES, OPTIMIZERS, Run, plain
from tests.parallel.training import fingerprint


def on_one_rank(function: Any) -> Any:
    return run_ranks(1, function)[0]


@pytest.fixture(params=["shared memory", "messages", "hosts"])
def hosts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """size -> the names of the ranks' hosts; the three ways in which shards can meet."""
    monkeypatch.setattr(zero, "_CHUNK", 16)  # several pieces of a shard
    if request.param == "messages":
        monkeypatch.setattr(ThreadCommunicator, "window", lambda comm, nbytes, patient=False: None)
    return lambda size: [f"host{r // 2 if request.param == 'hosts' else 0}" for r in range(size)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: f"{o[0].__name__}-{len(o[1])}")
def test_bytes_of_the_unsharded_optimizer(optimizer: Any, hosts: Any) -> None:
    """Parameters and state, with groups, missing gradients, two dtypes, a schedule, and buffers that are made anew."""

    def run(comm: Communicator, shard: bool = True) -> Any:
        training = Run(comm, optimizer, shard)
        training.train(7)
        return fingerprint(training.net), plain(training.state())

    want = on_one_rank(lambda comm: run(comm, shard=False))
    for size in range(1, MICROBATCHES + 1):
        assert run_ranks(size, run, hosts=hosts(size)) == [want] * size, f"{size} ranks"


@pytest.mark.parametrize("optimizer", OPTIMIZERS[1:3], ids=lambda o: o[0].__name__)
@pytest.mark.parametrize(("before", "after"), [(3, 2), (2, 4), (3, 0), (0, 3)])
def test_a_checkpoint_goes_on_anywhere(optimizer: Any, before: int, after: int, tmp_path: Path) -> None:
    """On another number of ranks, or (0) without sharding; and writing it does not disturb the run that does."""

    def first(comm: Communicator) -> str:
        training = Run(comm, optimizer, before > 0)
        checkpoint = Checkpointer(tmp_path, comm, model=training.model, optimizer=training.optimizer)
        training.train(5)
        checkpoint.save()
        training.train(8)
        checkpoint.close()
        return fingerprint(training.net)

    def second(comm: Communicator) -> str:
        training = Run(comm, optimizer, after > 0)
        checkpoint = Checkpointer(tmp_path, comm, model=training.model, optimizer=training.optimizer)
        training.train(4)  # has state already, and the third group
        assert checkpoint.resume()
        checkpoint.close()
        training.done = 5
        training.train(8)
        return fingerprint(training.net)

    assert len({*run_ranks(max(1, before), first), *run_ranks(max(1, after), second)}) == 1


def test_each_rank_keeps_its_part_of_the_state() -> None:
    def run(comm: Communicator) -> tuple[int, int]:
        parts = []
        for shard in (True, False):
            net = nn.Sequential(nn.Linear(100, 90), nn.Linear(90, 10))
            make: Any = lambda params: (  # noqa: E731
                ZeroRedundancyOptimizer(params, optim.AdamW, comm) if shard else optim.AdamW(params)  # noqa: B023
            )
            optimizer = make(net.parameters())
            net(dtrain.ones(1, 100)).sum().backward()
            optimizer.step()
            parts.append(optimizer.state_nbytes())
        return parts[0], parts[1]

    for size in (1, 3, 4):
        made = run_ranks(size, run)
        whole = made[0][1]
        assert whole >= 2 * 4 * (100 * 90 + 90 + 90 * 10 + 10)
        assert sum(part for part, _ in made) == whole
        assert all(abs(part - whole / size) < 100 for part, _ in made)


def test_state_of_this_rank() -> None:
    def run(comm: Communicator) -> list[Any]:
        net = nn.Linear(8, 4, bias=False)
        optimizer = ZeroRedundancyOptimizer(net.parameters(), optim.SGD, comm, momentum=0.5)
        assert optimizer.state == {}
        net(dtrain.ones(1, 8)).sum().backward()
        optimizer.step()
        return optimizer.state[net.weight]["momentum_buffer"].tolist()

    assert run_ranks(4, run) == [[1.0] * 8] * 4


WHOLE: list[type[optim.Optimizer]] = [optim.Adafactor, optim.LAMB, optim.LARS, optim.LBFGS, optim.Muon]


class NotElementwise(optim.SGD):
    elementwise = False


class OwnStep(optim.SGD):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (NotElementwise, "the state of NotElementwise cannot be sharded"),
        *[(make, f"the state of {make.__name__} cannot be sharded") for make in WHOLE],
        (OwnStep, "a step of its own"),
        (optim.SGD([nn.Parameter(dtrain.ones(1))]), "must be an optimizer of dtrain.optim, got an object of"),
    ],
    ids=["elementwise", *[make.__name__ for make in WHOLE], "step", "type"],
)
def test_optimizers_that_cannot_be_sharded_are_refused(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ZeroRedundancyOptimizer([nn.Parameter(dtrain.ones(2))], make)


def test_whole_state_must_be_collected_after_the_last_step() -> None:
    def run(comm: Communicator) -> list[str]:
        p = nn.Parameter(dtrain.ones(4))
        optimizer = ZeroRedundancyOptimizer([p], optim.AdamW, comm, lr=0.1)
        seen = []
        for to in (None, 1):
            p.grad = dtrain.ones(4)
            optimizer.step()
            with pytest.raises(RuntimeError, match=f"rank {comm.rank} has not got the whole state"):
                optimizer.state_dict()
            optimizer.consolidate_state_dict(to)
            try:
                seen.append(f"step {optimizer.state_dict()['state'][0]['step']}")
            except RuntimeError:
                seen.append("elsewhere")
        return seen

    assert run_ranks(3, run) == [["step 1", "elsewhere"], ["step 1", "step 2"], ["step 1", "elsewhere"]]


def test_without_its_ranks_the_state_is_refused_until_it_is_loaded() -> None:
    def run(comm: Communicator) -> float:
        p = nn.Parameter(dtrain.ones(4))
        optimizer = ZeroRedundancyOptimizer([p], optim.SGD, comm, lr=0.1, momentum=0.5)
        p.grad = dtrain.ones(4)
        optimizer.step()
        optimizer.consolidate_state_dict(None)
        kept = optimizer.state_dict()
        comm.generation += 1
        for call in (optimizer.step, optimizer.consolidate_state_dict):
            with pytest.raises(RuntimeError, match="ranks have been lost.*load_state_dict"):
                call()
        optimizer.load_state_dict(kept)
        optimizer.step()
        return p.array[-1].item()

    assert run_ranks(2, run) == pytest.approx([1 - 0.1 - 0.15] * 2)
