"""Training with communication hooks: bits, bytes, state, and what goes wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import nn, optim
from dtrain.backend.random import key
from dtrain.comm import Communicator, SingleCommunicator, run_ranks
from dtrain.parallel import reducer
from dtrain.parallel.hooks import ErrorFeedback, GradBucket, default_hooks, topk_hook
from tests.parallel.hooks.hooked import HOOKS, STATEFUL, hooked
from tests.parallel.training import fingerprint, train


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reducer, "_FIRST_BUCKET", 256)
    monkeypatch.setattr(reducer, "_BUCKET", 512)


@pytest.mark.parametrize("microbatches", [4, 12])
@pytest.mark.parametrize("name", HOOKS)
def test_same_bits_at_any_number_of_ranks(name: str, microbatches: int, small_buckets: None) -> None:
    """With BatchNorm, Dropout, clipping, an uneven last step, and that of 5 samples for 12 microbatches."""
    (want,) = run_ranks(1, lambda comm: train(comm, microbatches, wrap=hooked(name)))
    for hosts, overlap in (("a", True), ("aa", False), ("aaa", True), ("aab", True), ("abbb", False), ("aabb", True)):
        run = functools.partial(train, microbatches=microbatches, wrap=hooked(name), overlap=overlap)
        results = run_ranks(len(hosts), run, hosts=hosts)
        assert results == [want] * len(hosts), f"hosts {hosts}"


@pytest.mark.parametrize("name", HOOKS)
def test_same_bits_in_buckets_of_any_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in float64, and with one microbatch."""
    found = set()
    for size in (64, 700, 1 << 20):
        monkeypatch.setattr(reducer, "_FIRST_BUCKET", size)
        monkeypatch.setattr(reducer, "_BUCKET", size)
        for dtype in (np.float32, np.float64):
            for microbatches in (1, 3):
                result = train(SingleCommunicator(), microbatches, wrap=hooked(name), dtype=dtype)
                found.add((dtype, microbatches, result[0]))
    assert len(found) == 4


def test_the_hook_that_does_nothing_has_the_bits_of_no_hook() -> None:
    """Where the step's weight is a power of two, so that dividing by it rounds nothing."""
    sizes = {"samples": 64, "batch_size": 32}
    for hosts in ("aa", "ab"):
        plain = run_ranks(2, lambda comm: train(comm, 4, **sizes), hosts=hosts)
        assert run_ranks(2, lambda comm: train(comm, 4, wrap=hooked("allreduce"), **sizes), hosts=hosts) == plain


@pytest.mark.parametrize("name", ["topk", "PowerSGD"])
def test_with_synchronised_batch_norm(name: str) -> None:
    """Whose microbatches take turns in backward, while buckets of the last one leave."""

    def run(comm: Communicator) -> tuple[str, list[float]]:
        def wrap(module: nn.Module, *args: Any) -> dtrain.DistributedDataParallel:
            return hooked(name)(nn.SyncBatchNorm.convert_sync_batchnorm(module), *args, overlap=True)

        return train(comm, 4, wrap=wrap)

    want = run(SingleCommunicator())
    for hosts in ("aa", "aab"):
        assert run_ranks(len(hosts), run, hosts=hosts) == [want] * len(hosts)


class Branches(nn.Module):
    """Uses `a` or `b` by microbatch, `rare` in few steps, `twice` twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.rare, self.twice = (nn.Linear(8, 8) for _ in range(4))
        self.step = 0

    def forward(self, x: Any) -> Any:
        layer = self.a if key.microbatch % 2 else self.b
        y = self.twice(self.twice(layer(x)))
        return self.rare(y) if self.step % 3 == 1 and key.microbatch == 2 else y


@pytest.mark.parametrize("name", HOOKS)
def test_unused_and_changing_parameters_in_groups(name: str, small_buckets: None) -> None:
    def run(comm: Communicator) -> tuple[str, list[list[bool]]]:
        dtrain.manual_seed(1)
        net = Branches()
        model = hooked(name)(net, comm, 6, overlap=comm.size == 3)
        weights = [p for p in net.parameters() if p.ndim == 2]
        biases = [p for p in net.parameters() if p.ndim == 1]
        optimizer = optim.AdamW([{"params": weights}, {"params": biases, "weight_decay": 0.0}])
        have = []
        for net.step in range(6):
            for j in model.block:
                rng = np.random.Generator(np.random.Philox(key=j + 10 * net.step))
                model(dtrain.tensor(rng.standard_normal((2, 8)).astype(np.float32))).square().mean().backward()
            have.append([p.grad is not None for p in net.rare.parameters()])
            optimizer.step()
            optimizer.zero_grad()
        assert getattr(model.hook_state, "iter", 6) == 6
        return fingerprint(net), have

    (want,) = run_ranks(1, run)
    for size in (2, 3):
        assert run_ranks(size, run) == [want] * size
    assert want[1] == [[step % 3 == 1] * 2 for step in range(6)]


def test_errors_of_what_is_not_used_wait() -> None:
    """Nothing is sent of a parameter in steps that do not use it: its gradient would be thrown away."""
    model = dtrain.DistributedDataParallel(net := Branches())
    state = topk_hook.TopKState(0.1, 1)
    model.register_comm_hook(state, topk_hook.topk_hook)
    for net.step in range(3):
        key.move_to(net.step, 0)
        model(dtrain.ones(2, 8)).square().mean().backward()
        model.zero_grad()
        error = state.state_dict()["errors"]
        assert ("a.weight" in error, "rare.weight" in error) == (False, False)
        assert np.count_nonzero(error["b.weight"].numpy()) > 50


# -- state -------------------------------------------------------------------------------------------


def resumable(comm: Communicator, name: str, weights: Any, steps: range) -> tuple[Any, str]:
    """Some steps of training from (parameters, hook state): the same afterwards, and the parameters' fingerprint."""
    dtrain.manual_seed(5)
    net = nn.Sequential(nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 4))
    model = hooked(name)(net, comm, 6)
    if weights is not None:
        model.load_state_dict(weights[0])
        model.hook_state.load_state_dict(weights[1])
    optimizer = optim.SGD(model.parameters(), lr=0.2)
    for step in steps:
        for j in model.block:
            rng = np.random.Generator(np.random.Philox(key=j + 100 * step))
            model(dtrain.tensor(rng.standard_normal((2 + j, 12)).astype(np.float32))).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.hook_state.consolidate_state_dict()
    return (model.state_dict(), model.hook_state.state_dict()) if comm.rank == 0 else None, fingerprint(net)


@pytest.mark.parametrize("name", STATEFUL)
def test_state_goes_on_with_other_ranks(name: str) -> None:
    (want,) = run_ranks(1, lambda comm: resumable(comm, name, None, range(8))[1])
    saved = run_ranks(3, lambda comm: resumable(comm, name, None, range(4))[0])[0]
    for size in (1, 2, 4):
        assert run_ranks(size, lambda comm: resumable(comm, name, saved, range(4, 8))[1]) == [want] * size
    without = [saved[0], {**saved[1], "errors": {}}]
    assert run_ranks(1, lambda comm: resumable(comm, name, without, range(4, 8))[1]) != [want], "the errors matter"


def test_state_in_a_checkpoint(tmp_path: Path) -> None:
    def run(comm: Communicator, directory: Path, steps: int) -> str:
        dtrain.manual_seed(5)
        net = nn.Linear(20, 10)
        model = hooked("topk")(net, comm, 4)
        optimizer = optim.SGD(model.parameters(), lr=0.2)
        checkpoint = dtrain.checkpoint.Checkpointer(
            directory, comm, every=3, model=model, optimizer=optimizer, hook=model.hook_state
        )
        checkpoint.resume()
        while checkpoint.steps < steps:
            for j in model.block:
                x = np.random.Generator(np.random.Philox(key=j + 100 * checkpoint.steps)).standard_normal((2, 20))
                model(dtrain.tensor(x.astype(np.float32))).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            checkpoint.step()
        checkpoint.close()
        return fingerprint(net)

    (want,) = run_ranks(1, lambda comm: run(comm, tmp_path / "undisturbed", 6))
    run_ranks(3, lambda comm: run(comm, tmp_path / "resumed", 3))
    assert run_ranks(2, lambda comm: run(comm, tmp_path / "resumed", 6)) == [want] * 2


def test_state_that_cannot_go_on() -> None:
    def run(comm: Communicator) -> None:
        model = hooked("topk")(nn.Linear(12, 10), comm, 6)
        state = model.hook_state
        for j in model.block:
            model(dtrain.ones(1, 12) * (1.0 + j)).sum().backward()
        with pytest.raises(RuntimeError, match="consolidate_state_dict.. on all ranks"):
            state.state_dict()
        state.consolidate_state_dict()
        if comm.rank == 1:
            with pytest.raises(RuntimeError, match="rank 1 has not got the whole TopKState"):
                state.state_dict()
        with pytest.raises(RuntimeError, match="the state of another model"):
            state.attach(comm, 6)
        if comm.rank == 0:
            other = topk_hook.TopKState()
            other.load_state_dict(state.state_dict())
            with pytest.raises(ValueError, match="those of 6 microbatches, and the model has 7"):
                other.attach(comm, 7)
        comm.generation += 1
        for call in (state.consolidate_state_dict, lambda: state.finish(last=False)):
            with pytest.raises(RuntimeError, match="ranks have been lost"):
                call()  # type: ignore[no-untyped-call]

    run_ranks(2, run)


# -- bytes -------------------------------------------------------------------------------------------


def test_bytes() -> None:
    """What 2 ranks of one microbatch send in a step, by way of the traffic that the communicator counts."""
    n, m = 64, 128  # and 64 for the bias

    def step(comm: Communicator, name: str, steps: int) -> int:
        net = nn.Linear(m, n)
        model = hooked(name)(net, comm, 2)
        for _ in range(steps):
            before = comm.traffic.bytes_sent
            model(dtrain.ones(1, m) * (1.0 + comm.rank)).square().sum().backward()
        return comm.traffic.bytes_sent - before

    size = n * m + n
    around = 4 * (16 + 2)  # header and used, in float32
    for name, want in (
        ("allreduce", 4 * size),
        ("fp16", 2 * size),
        ("bf16", 2 * size),
        ("int8", size // 16 * (16 + 4)),
        # Each sends its pairs to the other: k of the weight, k of the bias.
        ("topk", 8 * (820 + 7)),
        ("PowerSGD", 4 * (n + m + n)),
    ):
        assert run_ranks(2, functools.partial(step, name=name, steps=2)) == [want + around] * 2, name


# -- hooks of one's own, and what goes wrong ---------------------------------------------------------


def test_a_hook_of_ones_own() -> None:
    """The one in the docstring of the package; buckets say what is in them."""
    seen: list[list[str]] = []

    class Sign:
        step_size = 0.1

    def sign_hook(state: Any, bucket: GradBucket) -> Any:
        if bucket.index() == 0:
            seen.append([])
        assert [g.shape for g in bucket.gradients(next(iter(bucket.leaves)))] == [p.shape for p in bucket.parameters()]
        seen[-1] += [*(place.name for place in bucket.places), "last" if bucket.is_last() else "|"]
        leaves = {j: np.sign(leaf).astype(np.int8) for j, leaf in bucket.leaves.items()}
        return state.step_size * bucket.all_reduce(leaves).astype(np.float32)

    model = dtrain.DistributedDataParallel(net := nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)))
    model.register_comm_hook(Sign(), sign_hook)
    for _ in range(2):
        model.zero_grad()
        model(dtrain.ones(1, 2)).sum().backward()
    assert seen[-1] == ["1.weight", "1.bias", "0.weight", "0.bias", "last"]
    assert set(np.abs(net[0].weight.grad.numpy()).ravel().tolist()) <= {np.float32(0.1), 0.0}


@pytest.mark.parametrize("size", [1, 2])
def test_bad_use_is_one_clear_error_on_every_rank(size: int) -> None:
    def no_function(comm: Communicator) -> None:
        dtrain.DistributedDataParallel(nn.Linear(2, 2), comm).register_comm_hook(default_hooks.allreduce_hook, None)  # type: ignore[arg-type]

    def two_hooks(comm: Communicator) -> None:
        hooked("fp16")(nn.Linear(2, 2), comm, comm.size).register_comm_hook(None, default_hooks.allreduce_hook)

    def in_a_step(comm: Communicator) -> None:
        model = dtrain.DistributedDataParallel(nn.Linear(2, 2), comm, 2 * comm.size)
        model(dtrain.ones(1, 2)).sum().backward()
        model.register_comm_hook(None, default_hooks.allreduce_hook)

    def fast_mode(comm: Communicator) -> None:
        hooked("fp16")(nn.Linear(2, 2), comm, comm.size, exact=False)

    def wrong_result(comm: Communicator) -> None:
        model = dtrain.DistributedDataParallel(nn.Linear(2, 2), comm)
        model.register_comm_hook(None, lambda state, bucket: bucket.all_reduce(bucket.leaves).astype(np.float64))
        model(dtrain.ones(1, 2)).sum().backward()

    def no_result(comm: Communicator) -> None:
        model = dtrain.DistributedDataParallel(nn.Linear(2, 2), comm)
        model.register_comm_hook(ErrorFeedback(), lambda state, bucket: None)  # type: ignore[arg-type, return-value]
        model(dtrain.ones(1, 2)).sum().backward()

    expected: list[tuple[Callable[[Communicator], None], type[Exception], str]] = [
        (no_function, TypeError, "hook must be a function"),
        (two_hooks, RuntimeError, "a communication hook is registered already"),
        (in_a_step, RuntimeError, "in the middle of step 0"),
        (fast_mode, ValueError, "leave exact=True"),
        (wrong_result, TypeError, "must return the sum, an array of float32 .32,., got float64"),
        (no_result, TypeError, "got NoneType"),
    ]

    def run(comm: Communicator) -> None:
        for function, error, words in expected:
            with pytest.raises(error, match=words):
                function(comm)
            comm.barrier()

    run_ranks(size, run)
