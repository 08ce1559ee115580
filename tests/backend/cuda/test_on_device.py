"""Tensors on a GPU, with the stand-in for CuPy: ops, models, whole steps, and errors."""

from __future__ import annotations

import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.autograd import Tensor, memory
from dtrain.gpucheck import steps
from dtrain.gpucheck.training import MODELS, train
from tests.ops.cases import CASES
from tests.ops.test_ops import OURS, flat, of_tensors


class _On:
    """Our functions; what makes tensors makes them on a device."""

    def __init__(self, device):
        self.device = device

    def __getattr__(self, name):
        found = getattr(OURS, name)
        return (lambda *a, **k: found(*a, device=self.device, **k)) if name == "full" else found


def _values_and_gradients(case, device):
    dtrain.manual_seed(0)
    inputs, varied = of_tensors(case, lambda a: Tensor(np.asarray(a)).to(device), np.float32)
    outputs = [o for o in flat(case.run(_On(device), *inputs)) if isinstance(o, Tensor)]
    rng = np.random.default_rng(1)
    for o in outputs:
        if o.requires_grad:
            o.backward(Tensor(rng.standard_normal(o.shape).astype(o.dtype)).to(device), retain_graph=True)
    return [*outputs, *(v.grad for v in varied)]


def test_every_op_gives_what_it_gives_on_the_cpu(gpu):
    wrong = []
    for case in CASES:
        here, there = (_values_and_gradients(case, device) for device in ("cpu", "cuda"))
        for a, b in zip(here, there, strict=True):
            assert (a is None) == (b is None), str(case)
            if a is not None:
                assert b.device == "cuda:0", str(case)
                if not np.allclose(gpu.host(b.array), a.array, rtol=1e-4, atol=1e-4, equal_nan=True):
                    wrong.append(str(case))
    assert not wrong


@pytest.mark.parametrize("name", MODELS)
def test_training_is_that_of_the_cpu(gpu, name):
    losses, parameters, _ = train(name, "cpu")
    losses_there, there, _ = train(name, "cuda")
    np.testing.assert_allclose(losses_there, losses, rtol=1e-5)
    for a, b in zip(parameters, there, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(there, train(name, "cuda")[1], strict=True))


def test_a_model_moves_and_comes_back(gpu):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    model.cuda()
    assert {t.device for t in model.state_dict().values()} == {"cuda:0"}
    assert model.state_dict()["0.weight"].is_cuda
    model.cpu()
    for k, v in model.state_dict().items():
        np.testing.assert_array_equal(v.numpy(), before[k])


def test_a_step_without_labels_never_waits_for_the_device(gpu):
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 4)).to("cuda")
    optimizer = dtrain.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = dtrain.ones(5, 8, device="cuda")
    for step in range(2):
        before = gpu.counter.syncs
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert step == 0 or gpu.counter.syncs == before


def test_tensors_on_two_devices_are_named(gpu):
    there, here = dtrain.ones(2, device="cuda"), dtrain.ones(2)
    with pytest.raises(RuntimeError, match=r"add: the tensors are on cpu and cuda:0; move them to one device"):
        there + here
    with pytest.raises(RuntimeError, match="linear: the tensors are on cpu and cuda:0"):
        nn.Linear(2, 3)(dtrain.ones(1, 2, device="cuda"))


def test_devices_that_are_not_to_be_had(gpu, monkeypatch):
    with pytest.raises(ValueError, match="'cuda:1' is not available: this process sees 1 GPU"):
        dtrain.ones(2, device="cuda:1")
    with pytest.raises(ValueError, match="device must be 'cpu', 'cuda' or 'cuda:0' and so on, got 'mps'"):
        dtrain.ones(2).to("mps")

    def no_driver():
        raise RuntimeError("cudaErrorInsufficientDriver")

    monkeypatch.setattr(gpu.cuda.runtime, "getDeviceCount", no_driver)
    with pytest.raises(ValueError, match="'cuda' is not available: cudaErrorInsufficientDriver; there is no GPU"):
        dtrain.ones(2).cuda()
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ValueError, match=r"CuPy cannot be imported .* pip install 'dtrain\[cuda13\]'"):
        dtrain.ones(2).to("cuda")


@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_gradients_are_clipped_without_waiting_for_their_norm(gpu, max_norm):
    """In flat buffers, where the optimizer has made some, and one by one."""
    found = []
    for device in ("cpu", "cuda"):
        dtrain.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)).to(device)
        optimizer = dtrain.optim.SGD(model.parameters(), lr=0.1)
        x, norms = dtrain.randn(4, 6).to(device), []
        for parameters in (list(model.parameters()), list(model.parameters()), list(model[0].parameters())):
            model(x).square().sum().backward()
            before = gpu.counter.syncs
            norms.append(nn.utils.clip_grad_norm_(parameters, max_norm))
            optimizer.step()
            assert gpu.counter.syncs == before
            optimizer.zero_grad()
        model[0].weight.grad = dtrain.full((5, 6), float("nan"), device=device)
        assert np.isnan(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        found.append([*map(float, norms), *(gpu.host(p.array) for p in model.parameters())])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision_with_a_scaler(gpu, dtype):
    """float32 weights, products in two-byte floats; a step whose gradients are infinite is left out."""
    dtrain.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).cuda()
    optimizer, scaler = dtrain.optim.AdamW(model.parameters(), lr=0.01), dtrain.amp.GradScaler("cuda", 2.0**10)
    x, y = dtrain.randn(32, 6).cuda(), dtrain.randint(0, 3, (32,)).cuda()
    losses = []
    for step in range(30):
        with dtrain.autocast("cuda", getattr(dtrain, dtype)):
            scores = model(x)
            assert scores.dtype == getattr(dtrain, dtype)
            assert nn.functional.linear(x.cpu(), model[0].weight.detach().cpu()).dtype == dtrain.float32
            loss = nn.functional.cross_entropy(scores, y)
        before = gpu.host(model[0].weight.array).copy()
        scaler.scale(loss * (float("inf") if step == 3 else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert (gpu.host(model[0].weight.array) == before).all() == (step == 3)
        losses.append(float(loss))
    assert scaler.get_scale() == 2.0**9 and losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("kind", ["AdamW", "RAdam", "LAMB", "AdamW one by one"])
def test_a_scaler_on_the_device_leaves_out_the_steps_that_one_on_the_host_does(gpu, kind):
    """Weights, counts and scale; a GPU is waited for once in a step at most, for what the one before was."""
    found = []
    for device in ("cpu", "cuda"):
        dtrain.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)).to(device)
        parameters = [*model.parameters()]
        optimizer = getattr(dtrain.optim, kind.split()[0])(parameters, lr=0.01)
        scaler = dtrain.amp.GradScaler(device, 2.0**10, growth_interval=3)
        steps, waits = [], []
        for factor in (1.0, float("inf"), 0.5, 2.0, 1.0, float("nan"), 1.0, 1.0):
            before = gpu.counter.syncs
            loss = (model(dtrain.ones(4, 6, device=device)) * factor).square().mean()
            with np.errstate(all="ignore"):
                scaler.scale(loss).backward()
            if "one by one" in kind:
                parameters[1].grad = None
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            waits.append(gpu.counter.syncs - before)
            if factor == 2.0:
                steps.append(optimizer.state_dict()["state"][0]["step"])
            optimizer.zero_grad()
        state = optimizer.state_dict()["state"]
        steps += [state[i]["step"] for i in sorted(state)]
        assert device == "cpu" or kind not in ("AdamW", "RAdam") or waits[1:4] + waits[5:] == [1] * 6
        found.append((steps, scaler.state_dict(), [p.detach().cpu().array for p in parameters]))
    (steps, scale, weights), (steps_there, scale_there, weights_there) = found
    assert steps == steps_there and steps[:2] == [3, 6] and scale == scale_there
    for a, b in zip(weights, weights_there, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5)


@pytest.mark.parametrize(("columns", "bias"), [(16, True), (16, False), (24, True), (144, False)])
def test_attention_in_bfloat16_is_the_hosts(gpu, columns, bias):
    """Heads that fit tiles and others, shared ones of keys; a bias that is trained, whose gradient tiles leave out."""
    found = []
    for device in ("cpu", "cuda"):
        dtrain.manual_seed(0)
        shapes = (2, 4, 9, columns), (2, 2, 7, columns), (9, 7)
        q, k, mask = (dtrain.randn(*s).to(dtrain.bfloat16).to(device).requires_grad_() for s in shapes)
        y = nn.functional.scaled_dot_product_attention(q, k, k, mask if bias else None, enable_gqa=True)
        y.square().sum().backward()
        found.append([x.detach().float().cpu().array for x in (y, q.grad, k.grad, *([mask.grad] if bias else []))])
    for host, here in zip(*found, strict=True):
        np.testing.assert_allclose(here, host, rtol=0.05, atol=0.05 * np.abs(host).max())


def test_out_of_memory_says_who_has_it(gpu, monkeypatch):
    model = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256)).cuda()
    optimizer = dtrain.optim.AdamW(model.parameters())
    x = dtrain.ones(4, 256).cuda()
    model(x).sum().backward()
    optimizer.step()
    weights = sum(p.numel() for p in model.parameters()) * 4
    mine = [*model.parameters(), optimizer]  # and nothing that tests before have left
    monkeypatch.setattr(memory, "gc", SimpleNamespace(get_objects=lambda: mine))
    found = memory.allocated("cuda:0")
    for kind, n in {"parameters": weights, "gradients": weights, "optimizer state": 2 * weights}.items():
        assert n <= found[kind] <= 1.01 * n
    assert "optimizer state" in dtrain.cuda.memory_summary()

    def full(*args, **kwargs):
        raise gpu.cuda.memory.OutOfMemoryError("Out of memory allocating 4,096 bytes")

    y = model(x).sum()
    monkeypatch.setattr(gpu, "empty", full)
    with pytest.raises(dtrain.cuda.OutOfMemoryError, match="allocating 4,096 bytes") as forward:
        model(x)
    with pytest.raises(MemoryError) as backward:
        y.backward()
    assert forward.value.__notes__[0].startswith("linear of float32 (4, 256), ") or "gelu" in forward.value.__notes__[0]
    assert backward.value.__notes__[0].startswith(
        "backward of float32 () ran out of memory on cuda:0, of which 0.0 MiB"
    )
    for error in (forward, backward):
        assert "parameters 1.0 MiB, gradients 1.0 MiB, optimizer state 2.0 MiB" in error.value.__notes__[0]
        assert "use a smaller batch or more microbatches" in error.value.__notes__[0]


def test_the_namespace_of_pytorch(gpu, monkeypatch):
    cuda = dtrain.cuda
    assert cuda.is_available() and cuda.device_count() == 1 and cuda.current_device() == 0
    assert cuda.get_device_name() == "emulated" and cuda.get_device_capability("cuda:0") == (9, 0)
    assert cuda.memory_allocated(0) == 0 and cuda.mem_get_info()[1] == 1 << 31
    cuda.set_device("cuda:0")
    cuda.synchronize()
    cuda.empty_cache()
    for wrong in (1, "cuda:1"):
        with pytest.raises(ValueError, match="'cuda:1' is not available: this process sees 1 GPU"):
            cuda.set_device(wrong)
    with pytest.raises(ValueError, match="expected a GPU, its number or 'cuda:0' and so on, got 'cpu'"):
        cuda.get_device_name("cpu")
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert not cuda.is_available() and cuda.device_count() == 0
    with pytest.raises(ValueError, match="CuPy cannot be imported"):
        cuda.current_device()


@pytest.mark.parametrize("name", steps.WORKLOADS)
def test_what_gpucheck_measures_can_be_run(gpu, name, monkeypatch):
    """Its workloads train, on a batch that a CPU can bear, and its jobs of ranks do."""
    small = {"mlp": (4, 784), "resnet18": (2, 3, 32, 32), "gpt": (1, 16)}
    if name not in small:
        pytest.skip("too large for a CPU")
    monkeypatch.setitem(steps.WORKLOADS, name, dataclasses.replace(steps.WORKLOADS[name], shape=small[name]))
    assert steps.steps_per_second(name, "dtrain", seconds=0.1) > 0
    if name != "gpt":
        assert steps.steps_per_second(name, "graph", seconds=0.1) > 0


def test_an_optimizers_state_goes_from_device_to_device(gpu):
    """By a state dict, whose tensors may be elsewhere, and when the model moves after some steps."""

    def train(moves):
        dtrain.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = dtrain.optim.AdamW(model.parameters(), 0.1)
        for device in moves:
            model.to(device)
            model(dtrain.ones(2, 3).to(device)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            state = optimizer.state_dict()
            optimizer.load_state_dict(state)
        return [p.detach().cpu().numpy() for p in model.parameters()]

    for moves in (["cuda"] * 3, ["cpu", "cuda", "cuda"], ["cuda", "cpu", "cuda"]):
        for a, b in zip(train(moves), train(["cpu"] * 3), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_loaders_batches_come_to_the_device_one_ahead(gpu):
    loaded = []

    class Numbers:
        def __len__(self):
            return 10

        def __getitem__(self, i):
            loaded.append(i)
            return np.float32(i), {"twice": 2 * i}

    loader = dtrain.data.DataLoader(Numbers(), 4, microbatches=2, device="cuda", num_workers=0)
    seen = []
    for x, y in loader:
        assert x.device == y["twice"].device == "cuda:0" and x.microbatch == (len(seen) % 2, 2)
        seen += [gpu.host(x.array).tolist()]
        assert len(loaded) == min(10, sum(map(len, seen)) + (2 if len(seen) < 4 else 1))
    assert seen == [[0, 1], [2, 3], [4, 5], [6, 7], [8], [9]]
    assert [gpu.host(x.array).tolist() for x, _ in loader] == seen
    with pytest.raises(ValueError, match="'cuda:3' is not available"):
        dtrain.data.DataLoader(Numbers(), 4, device="cuda:3")
