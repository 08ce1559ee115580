"""A step as a CUDA graph, on the stand-in, which does again what was captured: the bits of the step as it is."""

from __future__ import annotations

import math

import numpy as np
import pytest

import dtrain
from dtrain import nn, optim
from dtrain.comm import run_ranks
from dtrain.comm.nccl import NCCL
from dtrain.nn import functional as F
from launch import Job

_SCALER = dtrain.amp.GradScaler("cuda")


def _model():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.3), nn.Linear(16, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3),
    ).cuda()  # fmt: skip


def _train(captured, make, *, size=8, steps=9, clip=True, scheduled=True, comm=None, microbatches=1, held=None):
    """The losses and the state after some steps whose inputs, numbers and draws all differ."""
    dtrain.manual_seed(0)
    model = _model()
    if comm is not None:
        model = dtrain.DistributedDataParallel(model, comm, microbatches)
    optimizer = make(model.parameters())
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

    def step(batches):
        for x, y in batches:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    run = dtrain.cuda.capture(step) if captured else step
    losses = []
    own = range(1) if comm is None else model.block
    for i in range(steps):
        batches = []
        for j in own:
            rng = np.random.default_rng((i, j))
            x, y = rng.standard_normal((size, 2, 4, 4)).astype(np.float32), rng.integers(0, 3, size)
            batches.append((dtrain.tensor(x), dtrain.tensor(y)))
            if not captured:
                batches[-1] = tuple(t.cuda() for t in batches[-1])
        loss = run(batches)
        losses.append(float(loss))
        if comm is not None:
            losses.append(model.loss)
            assert model.synchronized and model.position["steps"] == i + 1
        if scheduled:
            schedule.step()
    if held is not None:
        held.append(run)
    state = [v.cpu().numpy().tobytes() for v in model.state_dict().values()]
    return losses, state, optimizer.state_dict()["state"][0]["step"]


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-3),
        lambda p: optim.AdamW(p, 0.01),
        lambda p: optim.RAdam(p, 0.01),  # its update changes at the sixth step
    ],
    ids=["SGD", "AdamW", "RAdam"],
)
def test_a_graph_has_the_bits_of_the_step(gpu, make):
    held = []
    assert _train(True, make, held=held) == _train(False, make)
    assert held[0].captured == 1 and held[0].reason is None


@pytest.mark.parametrize("way", ["one rank", "nccl"])
def test_under_distributed_data_parallel(gpu, way):
    """With several microbatches in a call, the step counted, its loss there, and the same bits on two GPUs."""

    def run(comm, captured):
        if comm.size > 1:
            comm.nccl = NCCL(comm)
        held = []
        found = _train(captured, optim.AdamW, comm=comm, microbatches=4, held=held)
        assert not captured or held[0].captured == 1
        return found

    size = 1 if way == "one rank" else 2
    eager = run_ranks(size, lambda comm: run(comm, False))
    assert [f[1:] for f in run_ranks(size, lambda comm: run(comm, True))] == [f[1:] for f in eager]
    assert eager[0][1] == run_ranks(1, lambda comm: run(comm, False))[0][1]


def test_every_kind_of_inputs_has_its_graph_and_state_may_be_loaded_in_between(gpu):
    def run(captured):
        dtrain.manual_seed(1)
        model = nn.Linear(3, 2).cuda()
        optimizer = optim.Adam(model.parameters(), 0.1)

        def step(x, scale=1.0):
            loss = (model(x) * scale).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss

        call, kept = dtrain.cuda.capture(step) if captured else step, None
        for i in range(24):
            call(dtrain.full((2 + i % 2, 3), 0.1 * i, device="cuda"), scale=1.0 + i % 2)
            if i == 10:
                kept = {k: v.clone() for k, v in model.state_dict().items()}, optimizer.state_dict()
            if i == 17:
                model.load_state_dict(kept[0])
                optimizer.load_state_dict(kept[1])
        return [gpu.host(p.array).tobytes() for p in model.parameters()], getattr(call, "captured", 2)

    assert run(True) == run(False)


@pytest.mark.parametrize("make", [optim.AdamW, lambda p: optim.SGD(p, 0.1, momentum=0.9), optim.RAdam])
@pytest.mark.parametrize("update_inside", [True, False])
def test_a_scaler_leaves_steps_out_in_a_graph(gpu, make, update_inside):
    """Weights, counts and scale are those of the step as it is; its state may be set in between."""

    def run(captured):
        dtrain.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)).cuda()
        optimizer = make(model.parameters())
        scaler = dtrain.amp.GradScaler("cuda", 2.0**10, growth_interval=3)

        def step(x, factor):
            loss = (model(x) * factor).square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            if update_inside:
                scaler.update()
            optimizer.zero_grad()
            return loss

        call, found = dtrain.cuda.capture(step) if captured else step, []
        for i, factor in enumerate([math.inf, 1, 0.5, 1, math.nan, 1, 2, 1, math.inf, math.inf, 1, 1, 1, 0.5, 1, 1, 1]):
            with np.errstate(all="ignore"):
                loss = call(dtrain.full((4, 6), 0.1 * i, device="cuda"), dtrain.tensor(float(factor), device="cuda"))
            if not update_inside:
                scaler.update()
            found.append(float(loss.nan_to_num(-1.0)))
            if i in (6, 11):
                found.append((scaler.state_dict(), optimizer.state_dict()["state"][0]["step"]))
            if i == 11:
                scaler.load_state_dict({**scaler.state_dict(), "scale": 64.0, "_growth_tracker": 1})
        assert not captured or (call.captured == 1 and call.reason is None)
        weights = [gpu.host(p.array).tobytes() for p in model.parameters()]
        return found, weights, scaler.state_dict(), optimizer.state_dict()["state"][0]["step"]

    assert run(True) == run(False)


def test_many_arrays_are_joined_in_a_graph(gpu):
    weight = nn.Parameter(dtrain.randn(3, 4)).cuda()
    call = dtrain.cuda.capture(lambda x: dtrain.cat([x * i for i in range(20)] + [weight.detach()], 0))
    for k in range(6):
        x = dtrain.full((2, 4), float(k), device="cuda")
        expected = np.concatenate([np.full((2, 4), k * i, np.float32) for i in range(20)] + [gpu.host(weight.array)])
        np.testing.assert_array_equal(gpu.host(call(x).array), expected)
    assert call.captured == 1


def test_a_class_that_does_not_exist_gives_nan(gpu):
    model, target = nn.Linear(3, 2).cuda(), dtrain.tensor([0, 1, -100])
    call = dtrain.cuda.capture(lambda x, y: F.cross_entropy(model(x), y))
    x = dtrain.ones(3, 3)
    with dtrain.no_grad():
        expected = float(F.cross_entropy(model(x.cuda()), target.cuda()))
        assert [float(call(x, target)) for _ in range(5)] == [expected] * 5 and call.captured == 1
        assert math.isnan(float(call(x, dtrain.tensor([0, 1, 2]))))


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (lambda loss, model: loss.item(), "values are asked for on the host"),
        (lambda loss, model: bool(loss > 0), "values are asked for on the host"),
        (lambda loss, model: dtrain.randn(2, device="cuda"), "an array comes from the host"),
        (lambda loss, model: dtrain.special.digamma(loss.detach()), "digamma is computed on the host"),
        (lambda loss, model: optim.LAMB(model.parameters()).step(), "LAMB updates parameters one by one here"),
        (
            lambda loss, model: (_SCALER.step(optim.LAMB(model.parameters())), _SCALER.update()),
            "LAMB waits for what a GradScaler has found",
        ),
    ],
)
def test_what_cannot_be_captured_runs_as_it_is_and_says_why(gpu, what, reason, capsys):
    model = nn.Linear(3, 2).cuda()
    called = []

    def step(x):
        called.append(1)
        loss = model(x).square().mean()
        loss.backward()
        what(loss, model)
        return loss

    call = dtrain.cuda.capture(step)
    for _ in range(6):
        call(dtrain.ones(2, 3))
    assert len(called) == 6 and call.reason == reason and call.captured == 0
    assert capsys.readouterr().err == f"dtrain: the step is not captured, and runs as it is: {reason}\n"


def test_an_error_in_a_capture_says_where_it_was(gpu):
    calls, model = [], nn.Linear(3, 2).cuda()

    def step(x):
        calls.append(1)
        y = model(x)
        if len(calls) == 4:
            y.array.item()  # by a way that no rehearsal sees
        return y

    call = dtrain.cuda.capture(step)
    for _ in range(3):
        call(dtrain.ones(2, 3))
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing") as caught:
        call(dtrain.ones(2, 3))
    assert caught.value.__notes__[0].startswith("while the step was captured as a CUDA graph")
    assert call(dtrain.ones(2, 3)).shape == (2, 2) and call.captured == 1


def test_a_recurrent_step_makes_its_first_states_on_the_gpu(gpu):
    found = []
    for captured in (False, True):
        dtrain.manual_seed(0)
        model = nn.LSTM(3, 4, batch_first=True).cuda()
        optimizer = optim.SGD(model.parameters(), 0.1)

        def step(x, model=model, optimizer=optimizer):
            loss = (model(x)[0] * (dtrain.arange(4, device="cuda") + dtrain.ones(4, device="cuda"))).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss

        run = dtrain.cuda.capture(step) if captured else step
        rng = np.random.default_rng(0)
        found.append([float(run(dtrain.tensor(rng.random((2, 5, 3), np.float32)).cuda())) for _ in range(6)])
    assert run.reason is None and run.captured == 1
    assert found[0] == found[1]


def test_a_job_without_a_gpu_captures_steps_of_the_cpu():
    step = Job(threads=1).capture(lambda x: x + 1)
    assert [step(dtrain.tensor(i)).item() for i in range(6)] == [1, 2, 3, 4, 5, 6]
    assert step.captured == 1 and step.reason is None
