"""DiLoCo: the bytes of a naive version at any number of ranks, checkpoints anywhere, few bytes sent, and learning."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import data, nn, optim
from dtrain.checkpoint import Checkpointer
from dtrain.comm import Communicator, RankLost, ThreadCommunicator, run_ranks
from dtrain.nn import functional as F
from dtrain.parallel import DiLoCo, ZeroRedundancyOptimizer, reducer
from tests.parallel.diloco import INNER, NESTEROV, Net, Run, batches, loss_of, train_naively
from tests.parallel.mortal import MortalCommunicator, run_mortals
from tests.parallel.training import fingerprint


@pytest.fixture(params=["shared memory", "messages", "hosts"])
def hosts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """size -> the names of the ranks' hosts."""
    if request.param == "messages":
        monkeypatch.setattr(ThreadCommunicator, "window", lambda comm, nbytes, patient=False: None)
    return lambda size: [f"host{r // 2 if request.param == 'hosts' else 0}" for r in range(size)]


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize(("microbatches", "sync_every"), [(4, 3), (7, 2), (2, 1)])
def test_bytes_of_the_naive_version(inner: str, microbatches: int, sync_every: int, hosts: Any) -> None:
    steps = batches(microbatches, 8)
    whole = len(steps) // sync_every * sync_every

    def naive(comm: Communicator) -> str:
        dtrain.manual_seed(3)
        net = Net()
        train_naively(net, steps[:whole], loss_of, INNER[inner], NESTEROV, sync_every)
        return fingerprint(net)

    def run(comm: Communicator) -> tuple[str, float]:
        training = Run(comm, microbatches, INNER[inner], sync_every)
        training.train(steps[:whole])
        return training.fingerprint(), training.model.loss

    (want,) = run_ranks(1, naive)
    ((_, loss),) = run_ranks(1, run)
    assert np.isfinite(loss)
    for size in (p for p in (1, 2, 3, 4) if p <= microbatches):
        assert run_ranks(size, run, hosts=hosts(size)) == [(want, loss)] * size, f"{size} ranks"


@pytest.mark.parametrize("bucket", [1 << 20, 64])
def test_a_rank_is_lost_while_workers_meet(bucket: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are left say so, and do not go on with half of the sums."""
    monkeypatch.setattr(reducer, "_FIRST_BUCKET", bucket)
    monkeypatch.setattr(reducer, "_BUCKET", bucket)
    if bucket == 64:
        monkeypatch.setattr(MortalCommunicator, "window", lambda *args: None)

    def run(comm: Communicator) -> str:
        training = Run(comm, 3, INNER["SGD"], 2)
        assert isinstance(comm, MortalCommunicator)
        comm.begin_to_die()
        training.train(batches(3, 2))
        return training.fingerprint()

    _, world = run_mortals(3, run, {})
    for moment in range(1, world.moments[1]):
        with pytest.raises(RankLost):
            run_mortals(3, run, {1: moment})


@pytest.mark.parametrize("done", [6, 4])  # steps; after an outer step, and in the middle of a round
@pytest.mark.parametrize(("before", "after"), [(3, 2), (1, 4), (4, 1)])
def test_a_checkpoint_goes_on_on_any_number_of_ranks(before: int, after: int, done: int, tmp_path: Path) -> None:
    steps = batches(4, 9)

    def make(comm: Communicator) -> tuple[Run, Checkpointer]:
        training = Run(comm, 4, INNER["AdamW"], sync_every=3)
        # The optimizer before the model: their order does not matter.
        return training, Checkpointer(tmp_path, comm, optimizer=training.optimizer, model=training.model)

    def first(comm: Communicator) -> tuple[str, float]:
        training, checkpoint = make(comm)
        training.train(steps[:done])
        checkpoint.save()
        checkpoint.close()
        training.train(steps[done:])
        return training.fingerprint(), training.model.loss

    def second(comm: Communicator) -> tuple[str, float]:
        training, checkpoint = make(comm)
        training.train(steps[:2])  # has state already, in the middle of a round
        checkpoint.resume()
        checkpoint.close()
        assert training.optimizer.steps == done
        training.train(steps[done:])
        return training.fingerprint(), training.model.loss

    want = run_ranks(before, first)
    assert run_ranks(after, second) == [want[0]] * after


def test_one_inner_step_with_plain_averaging_is_the_step_of_the_global_batch() -> None:
    """Local SGD: outer SGD with lr 1 takes the mean of the workers' parameters."""
    rng = np.random.Generator(np.random.Philox(key=5))
    x, y = rng.standard_normal((3, 8, 6)), rng.integers(0, 3, (3, 8))

    def train(wrap: Callable[[nn.Module, optim.Optimizer], Any]) -> np.ndarray:
        dtrain.manual_seed(0)
        net = nn.Linear(6, 3).double()
        inner = optim.SGD(net.parameters(), lr=0.5)
        model = wrap(net, inner)
        for step in range(3):
            for j in range(4):
                part = slice(2 * j, 2 * j + 2)
                F.cross_entropy(model(dtrain.tensor(x[step, part])), dtrain.tensor(y[step, part])).backward()
                if isinstance(model, DiLoCo) or model.synchronized:
                    getattr(model, "optimizer", inner).step()
                    inner.zero_grad()
        return model.state_dict()["weight"].numpy()

    mean = functools.partial(optim.SGD, lr=1.0)
    got = train(lambda net, inner: DiLoCo(net, inner, microbatches=4, sync_every=1, outer=mean))
    want = train(lambda net, inner: dtrain.DistributedDataParallel(net, microbatches=4))
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_nothing_is_sent_between_outer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ThreadCommunicator, "window", lambda comm, nbytes, patient=False: None)

    def sent(comm: Communicator) -> list[int]:
        training = Run(comm, 4, INNER["AdamW"], sync_every=3)
        seen = []
        for step in batches(4, 6):
            before = comm.traffic.bytes_sent
            training.train([step])
            seen.append(comm.traffic.bytes_sent - before)
        return seen

    nbytes = sum(p.array.nbytes for p in Net().parameters() if p.requires_grad)
    for size in (2, 4):
        for seen in run_ranks(size, sent):
            assert seen[:2] == seen[3:5] == [0, 0]
            # A reduce-scatter and an all-gather of the differences, with their headers and gaps.
            assert seen[2] == seen[5]
            assert 1 < seen[2] / (2 * nbytes * (size - 1) / size) < 1.5


def test_evaluation_is_that_of_the_last_outer_step() -> None:
    """In the middle of a round too, on every rank; it disturbs neither the workers nor the running statistics."""
    steps = batches(4, 6)
    x = dtrain.tensor(steps[0][0][0])

    def run(comm: Communicator, evaluate: bool) -> tuple[str, list[bytes]]:
        training = Run(comm, 4, INNER["SGD"], sync_every=3)
        seen = []
        for step in steps:
            for j in training.optimizer.block:
                loss = loss_of(training.model, step[j])
                if evaluate:  # even before backward
                    with dtrain.no_grad():
                        training.model(x, True)
                        training.model.eval()
                        seen.append(training.model(x, True).array.tobytes())
                        training.model.train()
                loss.backward()
                training.optimizer.step()
        return training.fingerprint(), seen[:: len(training.optimizer.block)]

    ((want, _),) = run_ranks(1, lambda comm: run(comm, False))
    results = run_ranks(1, lambda comm: run(comm, True)) + run_ranks(2, lambda comm: run(comm, True))
    assert all(got == (want, results[0][1]) for got in results)
    seen = results[0][1]
    assert seen[0] == seen[1] == seen[2] != seen[3] == seen[4] == seen[5]


def test_synchronize_ends_a_round_early() -> None:
    def run(comm: Communicator, sync_every: int) -> str:
        training = Run(comm, 4, INNER["AdamW"], sync_every)
        training.optimizer.synchronize()  # nothing has been done yet
        for step in range(4):
            training.train(batches(4, 8)[step : step + 1])
            assert training.model.synchronized
            if step % 2:
                training.optimizer.synchronize()
        return training.fingerprint()

    assert run_ranks(2, lambda comm: run(comm, 100)) == run_ranks(2, lambda comm: run(comm, 2))


def test_learning() -> None:
    """6,000 images of Fashion-MNIST, 4 workers that meet every 10 steps, with a loader, schedule and clipping."""
    images = {}
    for train, n in ((True, 6000), (False, 1000)):
        whole = data.FashionMNIST(train=train)
        every = len(whole) // n
        images[train] = (whole.data[::every, None].astype("f") / 255, whole.targets[::every].astype(np.int64))

    def run(comm: Communicator) -> float:
        dtrain.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
        inner = optim.AdamW(net.parameters(), lr=3e-3)
        schedule = optim.lr_scheduler.CosineAnnealingLR(inner, 188)
        model = DiLoCo(net, inner, comm, 4, sync_every=10)
        loader = data.DataLoader(
            data.ArrayDataset(*images[True]), 32, shuffle=True, comm=comm, microbatches=4, drop_last=False
        )
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            model.optimizer.step()
            model.optimizer.zero_grad()
            if model.synchronized:
                schedule.step()
        model.optimizer.synchronize()
        x, y = images[False]
        with dtrain.no_grad():
            return float((model(dtrain.tensor(x)).array.argmax(1) == y).mean())

    (accuracy,) = run_ranks(1, run)
    assert accuracy > 0.7  # DistributedDataParallel: 0.78
    assert run_ranks(2, run) == [accuracy] * 2


def make(comm: Communicator | None = None, microbatches: int | None = None, **options: Any) -> DiLoCo:
    dtrain.manual_seed(0)
    net = nn.Linear(2, 2)
    return DiLoCo(net, optim.SGD(net.parameters(), lr=0.1), comm, microbatches, **{"sync_every": 2, **options})


ONES = dtrain.ones(1, 2)


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match="every sync_every steps, at least 1; got 0"):
        make(sync_every=0)
    net = nn.Linear(2, 2)
    with pytest.raises(TypeError, match="each worker has its own; got ZeroRedundancyOptimizer"):
        DiLoCo(net, ZeroRedundancyOptimizer(net.parameters(), optim.SGD), sync_every=2)
    with pytest.raises(TypeError, match="calls no closure, got LBFGS"):
        DiLoCo(net, optim.LBFGS(net.parameters()), sync_every=2)
    sync = nn.Sequential(net, nn.SyncBatchNorm(2))
    with pytest.raises(ValueError, match="SyncBatchNorm needs all microbatches of a step"):
        DiLoCo(sync, optim.SGD(sync.parameters(), lr=0.1), sync_every=2)
    used = optim.SGD(net.parameters(), lr=0.1)
    net(ONES).sum().backward()
    used.step()
    with pytest.raises(ValueError, match="has made steps already"):
        DiLoCo(net, used, sync_every=2)
    with pytest.raises(RuntimeError, match="rank 0 has sync_every: 1; rank 1 has sync_every: 2"):
        run_ranks(2, lambda comm: make(comm, sync_every=1 + comm.rank))
    with pytest.raises(ValueError, match="3 ranks"):
        run_ranks(3, lambda comm: make(comm, 2))


def test_wrong_loops() -> None:
    model = make(microbatches=2)
    with pytest.raises(RuntimeError, match="worker 0 of 2, rank 0: .* the model was not called"):
        model.optimizer.step()
    with pytest.raises(RuntimeError, match="the model was not called since the last step"):
        model.module(ONES).sum().backward()
    model(ONES).sum().backward()
    with pytest.raises(RuntimeError, match=r"model\.optimizer: call its step\(\), not that of the inner"):
        model.optimizer.inner.step()
    model.optimizer.step()
    for call in (model.optimizer.synchronize, model.optimizer.consolidate_state_dict):
        with pytest.raises(RuntimeError, match="step 0, worker 1 of 2"):
            call()
    with pytest.raises(FloatingPointError, match="loss is nan at step 0, worker 1 of 2"):
        (model(ONES).sum() * float("nan")).backward()

    loader = data.DataLoader(data.ArrayDataset(np.ones((4, 2), "f")), 4, microbatches=2)
    batches = iter(loader)
    model = make(microbatches=2)
    model(next(batches)[0])
    with pytest.raises(RuntimeError, match="the loader gave microbatch 1 of 2"):
        model(next(batches)[0])


def test_what_cannot_go_on() -> None:
    model = make(microbatches=2)
    with pytest.raises(RuntimeError, match="has not got the state of all workers"):
        model.optimizer.state_dict()
    model.optimizer.consolidate_state_dict()
    with pytest.raises(ValueError, match="of 2 workers, here are 3"):
        make(microbatches=3).optimizer.load_state_dict(model.optimizer.state_dict())
    model.module.double()
    with pytest.raises(RuntimeError, match="parameters have been converted"):
        model(ONES.double())
    model = make()
    model.optimizer.inner.add_param_group({"params": nn.Parameter(dtrain.ones(1))})
    with pytest.raises(RuntimeError, match="added to the optimizer"):
        model(ONES)
    model = make()
    model.comm.generation += 1
    with pytest.raises(RuntimeError, match="ranks have been lost.*restart the job from a checkpoint"):
        model(ONES)
