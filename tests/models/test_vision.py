"""torchvision's classifiers: their keys, and their logits and gradients for the same weights."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import models, nn
from dtrain.models.blocks import StochasticDepth

from .reference import compare, set_random, torchvision_models

NAMES = [
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
    *("mobilenet_v2", "squeezenet1_0", "squeezenet1_1", "densenet121", "efficientnet_b0", "vit_b_16"),
]


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are made without initial weights, which take most of the time of it."""
    for name in ("normal_", "uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *args, **options: tensor)


@pytest.fixture(autouse=True)
def few_threads() -> Any:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra: torch)")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def images(n: int, size: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=1)).standard_normal((n, 3, size, size)).astype(np.float32)


def twins(name: str, **options: Any) -> tuple[Any, Any]:
    """dtrain's model and torchvision's, with the same random weights."""
    import torch

    theirs = getattr(torchvision_models(), name)
    with torch.device("meta"):
        theirs = theirs(**options)
    ours = getattr(models, name)(**options)
    set_random(ours, theirs)
    return ours, theirs


@pytest.mark.parametrize("name", NAMES)
def test_keys_and_shapes_are_torchvisions(name: str, no_drawing: None) -> None:
    import torch

    theirs = getattr(torchvision_models(), name)
    with torch.device("meta"):
        want = theirs().state_dict()
    got = getattr(models, name)().state_dict()
    assert [(key, tuple(value.shape)) for key, value in got.items()] == [
        (key, tuple(value.shape)) for key, value in want.items()
    ]


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_torchvisions(name: str, no_drawing: None) -> None:
    options = {"image_size": 64} if name == "vit_b_16" else {}
    ours, theirs = twins(name, **options)
    with dtrain.no_grad():
        compare(ours.eval(), theirs.eval(), images(2, 64))


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "mobilenet_v2", "squeezenet1_1", "densenet121", "efficientnet_b0"]
)
def test_gradients_in_training_are_torchvisions(name: str, no_drawing: None) -> None:
    """In float64: batch statistics of few pixels magnify rounding."""
    options = {"dropout": 0.0} if name in ("mobilenet_v2", "squeezenet1_1", "efficientnet_b0") else {}
    options |= {"stochastic_depth_prob": 0.0} if name == "efficientnet_b0" else {}
    ours, theirs = twins(name, num_classes=7, **options)
    compare(ours.double(), theirs.double(), images(3, 64).astype(np.float64), gradients=True, rtol=1e-7)


def test_densenets_published_keys_are_the_old_ones(no_drawing: None) -> None:
    ours, _ = twins("densenet121")
    state = {name: value.numpy() for name, value in ours.state_dict().items()}
    old = {re.sub(r"(denselayer\d+\.(norm|conv))([12])", r"\1.\3", name): value for name, value in state.items()}
    assert "features.denseblock1.denselayer1.norm.1.running_mean" in old
    fresh = models.densenet121()
    fresh.load_state_dict(old)
    for name, value in fresh.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[name])


def test_stochastic_depth() -> None:
    dtrain.manual_seed(0)
    x = dtrain.ones((1000, 2, 3), requires_grad=True)
    layer = StochasticDepth(0.25)
    y = layer(x)
    rows = y.detach().numpy().reshape(1000, 6)
    assert (rows == rows[:, :1]).all() and set(np.unique(rows)) == {0, np.float32(1 / 0.75)}
    assert 700 < (rows[:, 0] > 0).sum() < 800
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())
    assert layer.eval()(x) is x
