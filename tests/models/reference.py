"""torchvision's models, and the same random weights in two models."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import dtrain

__all__ = ["close", "compare", "random_state", "set_random", "torchvision_models"]


def torchvision_models() -> Any:
    """`torchvision.models`; skips the test where torchvision, or what it needs, is not installed.

    Its own __init__ is left out: that wants compiled operators, which an installation beside PyTorch for CPUs may not
    have; the classifiers do without.
    """
    pytest.importorskip("torch", reason="PyTorch is not installed (extra: torch)")
    pytest.importorskip("PIL", reason="pillow, which torchvision needs, is not installed (extra: torch)")
    if "torchvision" not in sys.modules:
        spec = importlib.util.find_spec("torchvision")
        if spec is None:
            pytest.skip("torchvision is not installed (extra: torch)")
        package = ModuleType("torchvision")
        package.__path__ = list(spec.submodule_search_locations or [])
        sys.modules["torchvision"] = package
    return importlib.import_module("torchvision.models")


def random_state(model: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Values for all parameters and buffers of a model of PyTorch's, such that activations neither vanish nor explode.

    Large arrays repeat themselves, which is faster to make than to draw.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    state: dict[str, np.ndarray] = {}
    for name, value in model.state_dict().items():
        shape = tuple(value.shape)
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(3)
        elif name.endswith("running_var"):
            state[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        elif len(shape) < 2:
            scale = name.endswith("weight")  # of a norm
            state[name] = (scale + 0.1 * rng.standard_normal(shape)).astype(np.float32)
        else:
            drawn = rng.standard_normal(min(value.numel(), 999_983)).astype(np.float32)
            state[name] = np.resize(drawn / np.sqrt(np.prod(shape[1:]) / 2).astype(np.float32), shape)
    return state


def set_random(ours: Any, theirs: Any) -> None:
    """Give both models the same random weights: PyTorch's state dict fits dtrain's model, name by name.

    A model on PyTorch's meta device keeps the arrays themselves, which saves the memory of a copy.
    """
    import torch

    state = random_state(theirs)
    ours.load_state_dict(state)
    meta = any(p.is_meta for p in theirs.parameters())
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()}, assign=meta)
    assert list(ours.state_dict()) == list(state)


def compare(ours: Any, theirs: Any, *inputs: np.ndarray, gradients: bool = False, rtol: float = 1e-4) -> None:
    """Outputs of both models for the same inputs agree, and with `gradients` those of all parameters, too."""
    import torch

    y = ours(*map(dtrain.tensor, inputs))
    want = theirs(*map(torch.from_numpy, inputs))
    close(y.detach().numpy(), want.detach().numpy(), rtol, "outputs")
    if not gradients:
        return
    g = np.random.Generator(np.random.Philox(key=7)).standard_normal(want.shape).astype(want.detach().numpy().dtype)
    y.backward(dtrain.tensor(g))
    want.backward(torch.from_numpy(g))
    expected = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    largest = max(float(np.abs(grad).max()) for grad in expected.values())
    for name, p in ours.named_parameters():
        close(p.grad.numpy(), expected[name], rtol, name, 1e-5 * largest)
    buffers = dict(theirs.named_buffers())
    for name, buffer in ours.named_buffers():
        close(buffer.numpy(), buffers[name].numpy(), rtol, name)


def close(ours: np.ndarray, theirs: np.ndarray, rtol: float, what: str, least: float = 1e-9) -> None:
    """Equal but for rtol of the largest element, or of `least`: some gradients are zero but for rounding."""
    assert ours.shape == theirs.shape, what
    scale = max(float(np.abs(theirs).max()), least)
    assert np.abs(ours - theirs).max() <= rtol * scale, what
