"""Tensors on a GPU, with the stand-in for CuPy: ops, models, whole steps, and errors."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.autograd import Tensor
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
    losses, parameters = train(name, "cpu")
    losses_there, there = train(name, "cuda")
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
