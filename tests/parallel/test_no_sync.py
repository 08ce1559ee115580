"""Steps whose gradients are exchanged later: PyTorch's numbers, and the same bits at any number of ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import data, nn, optim
from dtrain.comm import Communicator, run_ranks
from dtrain.nn import functional as F
from dtrain.parallel import NaiveDistributedDataParallel
from dtrain.parallel.hooks import default_hooks
from tests.parallel.training import fingerprint, make_net, make_sync_net

RNG = np.random.Generator(np.random.Philox(key=13))
X, Y = RNG.standard_normal((67, 1, 4, 4)).astype("f"), RNG.integers(0, 5, 67)


def train(
    comm: Communicator,
    microbatches: int = 4,
    wrap: Any = dtrain.DistributedDataParallel,
    make: Callable[[], nn.Module] = make_net,
    **options: Any,
) -> tuple[str, list[float]]:
    """Updates after 3, 1 and 2 steps of 12 samples, the last of which has 7."""
    dtrain.manual_seed(1)
    model = wrap(make(), comm, microbatches, **options)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = data.DataLoader(data.ArrayDataset(X, Y), 12, shuffle=True, comm=comm, microbatches=microbatches)
    losses = []
    for i, (x, y) in enumerate(loader):
        step = i // len(loader.own_microbatches)
        with nullcontext() if step in (2, 3, 5) else model.no_sync():
            F.cross_entropy(model(x), y).backward()
        assert model.synchronized == (step in (2, 3, 5) and (i + 1) % len(loader.own_microbatches) == 0)
        if model.synchronized:
            losses.append(getattr(model, "loss", 0.0))
            optimizer.step()
            optimizer.zero_grad()
    return fingerprint(model.module), losses


@pytest.mark.parametrize("make", [make_net, make_sync_net])
@pytest.mark.parametrize("microbatches", [4, 7])
def test_same_bits_at_any_number_of_ranks(microbatches: int, make: Any) -> None:
    """With BatchNorm's statistics, Dropout, empty microbatches; overlapped, and between two hosts."""
    want = run_ranks(1, lambda c: train(c, microbatches, make=make))[0]
    assert len(want[1]) == 3 and np.isfinite(want[1]).all()
    if make is make_net:
        assert run_ranks(1, lambda c: train(c, microbatches, NaiveDistributedDataParallel))[0][0] == want[0]
    for size in (2, 3, 4):
        for options in ({}, {"overlap": True}):
            hosts = "abab"[:size] if options else None
            results = run_ranks(size, lambda c: train(c, microbatches, make=make, **options), hosts=hosts)  # noqa: B023
            assert results == [want] * size, f"{size} ranks, {options}"


@pytest.mark.parametrize("make", [make_net, make_sync_net])
def test_with_a_communication_hook(make: Any) -> None:
    def wrap(net: nn.Module, comm: Communicator, microbatches: int) -> Any:
        model = dtrain.DistributedDataParallel(net, comm, microbatches)
        model.register_comm_hook(None, default_hooks.fp16_compress_hook)
        return model

    want = run_ranks(1, lambda comm: train(comm, 4, wrap, make))
    assert want != run_ranks(1, lambda comm: train(comm, 4, make=make))
    for size in (2, 3):
        assert run_ranks(size, lambda comm: train(comm, 4, wrap, make)) == want * size


def linear(comm: Communicator, run: Callable[[Any, Any], None]) -> np.ndarray:
    dtrain.manual_seed(0)
    model = dtrain.DistributedDataParallel(nn.Linear(3, 2).double(), comm)
    rng = np.random.Generator(np.random.Philox(key=17))
    x = rng.standard_normal((4, comm.size, 5, 3))[:, comm.rank]
    run(model, [dtrain.tensor(part) for part in x])
    return np.concatenate([p.grad.numpy().ravel() for p in model.parameters()])


def with_no_sync(model: Any, x: list[Any]) -> None:
    for part in x[:2]:
        with model.no_sync():
            model(part).square().mean().backward()
        assert all(p.grad is None for p in model.parameters())
    model(x[2]).square().mean().backward()
    with model.no_sync():  # its gradient is not there yet
        model(x[3]).square().mean().backward()


def without(model: Any, x: list[Any]) -> None:
    for part in x[:3]:
        model(part).square().mean().backward()


@pytest.mark.parametrize("size", [1, 3])
def test_the_same_as_exchanging_every_time(size: int) -> None:
    for later, now in zip(*(run_ranks(size, lambda c: linear(c, run)) for run in (with_no_sync, without)), strict=True):  # noqa: B023
        np.testing.assert_allclose(later, now, rtol=1e-12)


THEIRS = """
import json, os, sys
import numpy as np, torch
from torch.nn.parallel import DistributedDataParallel
rank, file, weights = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
net = torch.nn.Linear(3, 2).double()
with torch.no_grad():
    for p, w in zip(net.parameters(), weights):
        p.copy_(torch.tensor(w))
model = DistributedDataParallel(net)
x = np.random.Generator(np.random.Philox(key=17)).standard_normal((4, 2, 5, 3))[:, rank]
for part in x[:2]:
    with model.no_sync():
        model(torch.tensor(part)).square().mean().backward()
model(torch.tensor(x[2])).square().mean().backward()
if rank == 0:
    print(json.dumps(torch.cat([p.grad.flatten() for p in net.parameters()]).tolist()), flush=True)
torch.distributed.barrier()
os._exit(0)  # gloo's threads sometimes end a process with "terminate called" on the ordinary way out
"""


def test_equals_pytorch_over_gloo(torch: Any, tmp_path: Path) -> None:
    dtrain.manual_seed(0)
    weights = json.dumps([p.tolist() for p in nn.Linear(3, 2).double().parameters()])
    command = [sys.executable, "-c", THEIRS]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet"), weights], stdout=subprocess.PIPE)
        for rank in range(2)
    ]
    try:
        theirs = json.loads(ranks[0].communicate(timeout=120)[0])
        assert [rank.wait(timeout=60) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    for ours in run_ranks(2, lambda comm: linear(comm, with_no_sync)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_what_goes_wrong_is_one_clear_error() -> None:
    def mixed(model: Any, optimizer: Any) -> None:
        for j in model.block:
            with model.no_sync() if j % 2 else nullcontext():
                model(dtrain.ones(1, 2)).sum().backward()

    def step_inside(model: Any, optimizer: Any) -> None:
        with model.no_sync():
            for _ in model.block:
                model(dtrain.ones(1, 2)).sum().backward()
            optimizer.step()

    def checkpoint_inside(model: Any, optimizer: Any) -> None:
        with model.no_sync():
            for _ in model.block:
                model(dtrain.ones(1, 2)).sum().backward()
        _ = model.position

    def trained_in_between(model: Any, optimizer: Any) -> None:
        net = nn.Linear(2, 2)
        net.bias.requires_grad_(False)
        model = dtrain.DistributedDataParallel(net, model.comm, 2)
        with model.no_sync():
            for _ in range(2):
                model(dtrain.ones(1, 2)).sum().backward()
                net.bias.requires_grad_(True)

    def another_number_of_steps(model: Any, optimizer: Any) -> None:
        for _ in range(1 + model.comm.rank):
            with model.no_sync():
                for _ in model.block:
                    model(dtrain.ones(1, 2)).sum().backward()
        for _ in model.block:
            model(dtrain.ones(1, 2)).sum().backward()

    def run(comm: Communicator, program: Any) -> None:
        model = dtrain.DistributedDataParallel(nn.Linear(2, 2), comm, 2 * comm.size)
        program(model, optim.SGD(model.parameters(), lr=0.1))

    for program, message in [
        (mixed, "inside or outside of no_sync.* as a whole.* the 2 microbatches of a rank accumulate"),
        (step_inside, "while the gradients of 1 steps wait"),
        (checkpoint_inside, "would be lost"),
        (trained_in_between, "step 1: the parameters that are trained.* have changed"),
        (another_number_of_steps, "gradients of [23] steps, and the mean over ranks is 2.5"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            run_ranks(2, lambda comm: run(comm, program))  # noqa: B023
