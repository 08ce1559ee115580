"""LARS and LAMB beside their formulas, written out for one parameter in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import nn, optim

norm = np.linalg.norm


def lars(p: Any, gradients: list[Any], lr: float, momentum: float, decay: float, trust: float, nesterov: bool) -> Any:
    v = 0.0
    for g in gradients:
        ratio = trust * norm(p) / (norm(g) + decay * norm(p) + 1e-8) if norm(p) > 0 and norm(g) > 0 else 1.0
        u = ratio * (g + decay * p)
        v = momentum * v + u
        p = p - lr * (u + momentum * v if nesterov else v)
    return p


def lamb(p: Any, gradients: list[Any], lr: float, betas: tuple[float, float], decay: float) -> Any:
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        u = m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + 1e-6) + decay * p
        ratio = norm(p) / norm(u) if norm(p) > 0 and norm(u) > 0 else 1.0
        p = p - lr * ratio * u
    return p


def run(make: Any, start: Any, gradients: list[Any], **options: Any) -> Any:
    p = nn.Parameter(dtrain.Tensor(start.copy()))
    other = nn.Parameter(dtrain.Tensor(np.ones(3)))  # norms are of one parameter, not of the flat buffer
    optimizer = make([p, other], **options)
    for g in gradients:
        p.grad, other.grad = dtrain.Tensor(g.copy()), dtrain.Tensor(np.full(3, 7.0))
        optimizer.step()
    return p.array


def inputs(zero: bool = False) -> tuple[Any, list[Any]]:
    rng = np.random.default_rng(0)
    return (np.zeros((3, 4)) if zero else rng.standard_normal((3, 4))), [rng.standard_normal((3, 4)) for _ in range(6)]


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_lars(nesterov: bool, zero: bool) -> None:
    start, gradients = inputs(zero)
    options = {"lr": 0.5, "momentum": 0.9, "weight_decay": 0.01, "nesterov": nesterov, "trust_coefficient": 0.02}
    expected = lars(start, gradients, 0.5, 0.9, 0.01, 0.02, nesterov)
    np.testing.assert_allclose(run(optim.LARS, start, gradients, **options), expected, rtol=1e-9)
    turned = [-g for g in gradients]
    np.testing.assert_allclose(run(optim.LARS, start, turned, maximize=True, **options), expected, rtol=1e-9)


@pytest.mark.parametrize("zero", [False, True])
def test_lamb(zero: bool) -> None:
    start, gradients = inputs(zero)
    options = {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.1}
    expected = lamb(start, gradients, 0.05, (0.8, 0.95), 0.1)
    np.testing.assert_allclose(run(optim.LAMB, start, gradients, **options), expected, rtol=1e-9)
    turned = [-g for g in gradients]
    np.testing.assert_allclose(run(optim.LAMB, start, turned, maximize=True, **options), expected, rtol=1e-9)


def test_without_adapting_they_are_sgd_and_adamw() -> None:
    start, gradients = inputs()
    pairs: list[tuple[Any, Any, dict[str, Any]]] = [
        (optim.LARS, optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1}),
        (optim.LAMB, optim.AdamW, {"lr": 0.1, "eps": 1e-4, "weight_decay": 0.1}),
    ]
    for make, twin, options in pairs:
        ours, theirs = run(make, start, gradients, adapt=False, **options), run(twin, start, gradients, **options)
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@pytest.mark.parametrize("make", [optim.LARS, optim.LAMB])
def test_errors(make: Any) -> None:
    params = [nn.Parameter(dtrain.ones(2))]
    with pytest.raises(ValueError, match="weight_decay must be at least 0, got -1"):
        make(params, weight_decay=-1)
    with pytest.raises(ValueError, match="lr must be at least 0"):
        make(params, lr=-0.1)


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ValueError, match="nesterov needs momentum > 0 and dampening 0"):
        optim.LARS([nn.Parameter(dtrain.ones(2))], momentum=0.0, nesterov=True)
