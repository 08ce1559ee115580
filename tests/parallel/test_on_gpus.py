"""DistributedDataParallel with parameters on GPUs, with the stand-in for CuPy: the same bits at any number of ranks."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

import dtrain
from dtrain import nn, optim
from dtrain.comm import run_ranks
from dtrain.comm.nccl import NCCL
from dtrain.parallel import NaiveDistributedDataParallel, ZeroRedundancyOptimizer, hooks, reducer
from tests.backend.cuda.conftest import gpu  # noqa: F401
from tests.parallel.training import make_sync_net, train


@pytest.mark.parametrize("way", ["staged", "staged beside backward", "nccl"])
def test_same_bits_at_any_number_of_gpus(gpu, way, monkeypatch):  # noqa: F811
    """Equal to the naive twin's, which adds up on one GPU."""
    monkeypatch.setattr(reducer, "_FIRST_BUCKET", 512)
    monkeypatch.setattr(reducer, "_BUCKET", 512)

    def run(comm, microbatches, **options):
        if way == "nccl" and comm.size > 1:
            comm.nccl = NCCL(comm)
        overlap = {"staged": False, "staged beside backward": True, "nccl": None}[way]
        return train(comm, microbatches, device="cuda", epochs=1, overlap=overlap, **options)

    for microbatches, sizes in ((1, [1]), (4, [1, 2, 3, 4]), (6, [1, 2, 6])):
        [(want, losses)] = run_ranks(1, lambda comm, m=microbatches: run(comm, m))
        naive = run_ranks(
            1, lambda comm, m=microbatches: train(comm, m, device="cuda", epochs=1, wrap=NaiveDistributedDataParallel)
        )
        assert want == naive[0][0]
        assert np.isfinite(losses).all()
        for size in sizes:
            results = run_ranks(size, lambda comm, m=microbatches: run(comm, m))
            assert results == [(want, losses)] * size, f"{size} ranks"


@pytest.mark.parametrize("way", ["staged", "nccl"])
def test_layers_and_optimizers_that_exchange(gpu, way):  # noqa: F811
    """SyncBatchNorm whose microbatches are siblings on the device, and sharded state."""

    def run(comm, **options):
        if way == "nccl" and comm.size > 1:
            comm.nccl = NCCL(comm)
        return train(comm, 4, device="cuda", epochs=1, **options)

    zero = partial(ZeroRedundancyOptimizer, optimizer_class=optim.SGD)
    for options in ({"make": make_sync_net}, {"sharded": zero}):
        want = run_ranks(1, lambda comm, o=options: run(comm, **o))
        for size in (2, 4):
            assert run_ranks(size, lambda comm, o=options: run(comm, **o)) == want * size, options


def test_fast_mode_is_nccls_own(gpu, capfd):  # noqa: F811
    def run(comm):
        comm.nccl = NCCL(comm)
        return train(comm, 4, device="cuda", epochs=1, dtype=np.float64, exact=False)[1]

    _, want = run_ranks(1, lambda comm: train(comm, 4, device="cuda", epochs=1, dtype=np.float64))[0]
    for losses in run_ranks(2, run):
        np.testing.assert_allclose(losses, want, rtol=1e-9)
    assert "fast mode" in capfd.readouterr().err


def test_a_step_never_waits_for_the_device(gpu):  # noqa: F811
    """The loss is looked at when it is asked for; what was wrong with it is said then, or at the next step's end."""
    net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.BatchNorm1d(16), nn.Linear(16, 4)).to("cuda")
    model = dtrain.DistributedDataParallel(net, microbatches=2)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = dtrain.ones(5, 8, device="cuda")

    def step(factor=1.0):
        for _ in range(2):
            (model(x) * factor).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    step()
    before = gpu.counter.syncs
    step()
    assert gpu.counter.syncs - before == 1  # of the step before: is its loss a number?
    assert 0 < model.loss < 100 and not model.stopping
    step(math.nan)
    with pytest.raises(FloatingPointError, match="the loss is nan in step 3"):
        _ = model.loss
    step(math.nan)
    with pytest.raises(FloatingPointError, match="the loss is nan in step 4"):
        step()


def test_a_step_whose_backward_begins_at_no_number_has_no_loss(gpu):  # noqa: F811
    model = dtrain.DistributedDataParallel(nn.Linear(4, 2).cuda())
    y = model(dtrain.ones(3, 4, device="cuda"))
    y.backward(dtrain.ones_like(y))
    assert model.synchronized and math.isnan(model.loss)


@pytest.mark.parametrize("kind", ["float16", "PowerSGD"])
def test_communication_hooks(gpu, kind):  # noqa: F811
    """Of gradients that are copied to the host: the bits of one rank, and what the CPU gives up to rounding."""

    def wrap(net, comm, microbatches, **options):
        model = dtrain.DistributedDataParallel(net, comm, microbatches, **options)
        if kind == "float16":
            model.register_comm_hook(None, hooks.default_hooks.fp16_compress_hook)
        else:
            state = hooks.powerSGD_hook.PowerSGDState(matrix_approximation_rank=1, start_powerSGD_iter=2)
            model.register_comm_hook(state, hooks.powerSGD_hook.powerSGD_hook)
        return model

    [want] = run_ranks(1, lambda comm: train(comm, 4, device="cuda", wrap=wrap))
    for size, overlap in ((2, False), (3, True)):
        assert (
            run_ranks(size, lambda comm, o=overlap: train(comm, 4, device="cuda", wrap=wrap, overlap=o))
            == [want] * size
        )
    [(_, losses)] = run_ranks(1, lambda comm: train(comm, 4, wrap=wrap))
    np.testing.assert_allclose(want[1], losses, rtol=1e-3)
