"""torchvision's classifiers: their keys, and their logits and gradients for the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import models, nn

from .reference import compare, set_random, torchvision_models

NAMES = [
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
    *("mobilenet_v2",),
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
    torch.set_num_threads(2)
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
    theirs = theirs.to_empty(device="cpu")
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


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet152", "mobilenet_v2", "vgg11", "vgg16_bn"])
def test_logits_are_torchvisions(name: str, no_drawing: None) -> None:
    ours, theirs = twins(name)
    with dtrain.no_grad():
        compare(ours.eval(), theirs.eval(), images(2, 64))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
def test_gradients_in_training_are_torchvisions(name: str, no_drawing: None) -> None:
    """In float64: batch statistics of few pixels magnify rounding."""
    options = {"dropout": 0.0} if name == "mobilenet_v2" else {}
    ours, theirs = twins(name, num_classes=7, **options)
    compare(ours.double(), theirs.double(), images(3, 64).astype(np.float64), gradients=True, rtol=1e-7)
