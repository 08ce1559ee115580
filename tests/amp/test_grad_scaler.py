"""GradScaler beside PyTorch's: scales, steps that are left out, states, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.amp import GradScaler


def history(library: Any, scaler: Any, losses: list[float], unscale: bool) -> list[Any]:
    """The scale and the weight after each step; the gradient of the weight is the loss's factor."""
    weight = library.nn.Parameter(library.ones(1))
    optimizer = library.optim.SGD([weight], lr=0.5)
    found = []
    for factor in losses:
        optimizer.zero_grad()
        scaler.scale((weight * factor).sum()).backward()
        if unscale:
            scaler.unscale_(optimizer)
            library.nn.utils.clip_grad_norm_([weight], 0.25)
        scaler.step(optimizer)
        scaler.update()
        found.append((scaler.get_scale(), weight.item()))
    return found


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("enabled", [False, True])
def test_it_goes_as_pytorchs(unscale: bool, enabled: bool) -> None:
    torch = pytest.importorskip("torch")
    losses = [0.5, 0.5, float("inf"), 0.25, float("nan"), 1e36, 0.5, 0.5, 0.5] if enabled else [0.5, 0.25]
    options = {"init_scale": 1024.0, "growth_interval": 2, "enabled": enabled}
    ours, theirs = GradScaler("cpu", **options), torch.amp.GradScaler("cpu", **options)
    with np.errstate(all="ignore"):
        got, want = history(dtrain, ours, losses, unscale), history(torch, theirs, losses, unscale)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert ours.state_dict() == theirs.state_dict()
    other = GradScaler(enabled=enabled)
    other.load_state_dict(theirs.state_dict())
    assert other.state_dict() == ours.state_dict()


def test_small_gradients_survive_in_float16() -> None:
    found = []
    for scaler in (GradScaler(enabled=False), GradScaler(init_scale=2.0**14)):
        dtrain.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = dtrain.optim.SGD(model.parameters(), lr=1.0)
        with dtrain.autocast("cpu", dtrain.float16):
            loss = model(dtrain.ones(4, 3)).float().sum() * 1e-8  # below what float16 has
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        found.append(model.weight.grad.array.copy())
    assert not found[0].any()
    np.testing.assert_allclose(found[1], 4e-8, rtol=1e-2)


def test_errors() -> None:
    with pytest.raises(ValueError, match="growth_factor must be above 1"):
        GradScaler(growth_factor=1.0)
    scaler, weight = GradScaler(), nn.Parameter(dtrain.ones(1))
    optimizer = dtrain.optim.SGD([weight], lr=1.0)
    with pytest.raises(RuntimeError, match="needs a step"):
        scaler.update()
    scaler.scale(weight.sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="already been called"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="already been called"):
        scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="after step"):
        scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="closure"):
        scaler.step(optimizer, closure=lambda: 0)
    half = nn.Parameter(dtrain.ones(1, dtype=dtrain.float16))
    half.grad = dtrain.ones(1, dtype=dtrain.float16)
    with pytest.raises(ValueError, match="gradient in float16"):
        GradScaler().unscale_(dtrain.optim.SGD([half], lr=1.0))
    with pytest.raises(RuntimeError, match="empty"):
        scaler.load_state_dict({})
