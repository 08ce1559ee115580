"""Clipping of gradients, and initial values drawn by name, beside PyTorch's."""

from __future__ import annotations

import math

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.nn import init
from dtrain.nn.flat import flatten
from dtrain.nn.utils import clip_grad_norm_, clip_grad_value_

GRADS = [np.array([[3.0, -4.0]]), np.array(12.0), None, np.zeros((2, 1))]


def parameters(make, parameter):
    made = []
    for g in GRADS:
        p = parameter(make(np.zeros(2 if g is None else g.shape)))
        p.grad = None if g is None else make(g.copy())
        made.append(p)
    return made


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("norm_type", [2, 2.0, 1, 3.5, math.inf, "inf"])
@pytest.mark.parametrize("max_norm", [1.0, 100.0, 0.0])
def test_clip_grad_norm_is_pytorchs(torch, norm_type, max_norm, flat):
    ours = parameters(dtrain.Tensor, nn.Parameter)
    if flat:
        flatten(ours)
    theirs = parameters(torch.from_numpy, torch.nn.Parameter)
    norm = clip_grad_norm_(ours, max_norm, norm_type)
    want = torch.nn.utils.clip_grad_norm_(theirs, max_norm, float(norm_type))
    assert norm.item() == pytest.approx(want.item(), rel=1e-12)
    for p, q in zip(ours, theirs, strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            np.testing.assert_allclose(p.grad.array, q.grad.numpy(), rtol=1e-9)


def test_clip_grad_norm_of_nothing_one_and_infinity():
    assert clip_grad_norm_([], 1.0).item() == 0
    p = nn.Parameter(dtrain.zeros(2))
    assert clip_grad_norm_(p, 1.0).item() == 0
    p.grad = dtrain.tensor([math.inf, 1.0])
    with pytest.raises(RuntimeError, match="norm of the gradients is inf"):
        clip_grad_norm_(p, 1.0, error_if_nonfinite=True)
    assert p.grad.tolist() == [math.inf, 1]
    p.grad = dtrain.tensor([3.0, 4.0])
    assert clip_grad_norm_(iter([p]), 1.0).dtype == np.float32
    assert p.grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-5)


def test_clip_grad_value(torch):
    ours, theirs = parameters(dtrain.Tensor, nn.Parameter), parameters(torch.from_numpy, torch.nn.Parameter)
    flatten(ours)
    clip_grad_value_(ours, 3.5)
    torch.nn.utils.clip_grad_value_(theirs, 3.5)
    for p, q in zip(ours, theirs, strict=True):
        if q.grad is not None:
            np.testing.assert_array_equal(p.grad.array, q.grad.numpy())
    assert ours[0].grad is ours[0]._flat.grad


@pytest.mark.parametrize(
    ("fill", "std"),
    [
        (lambda t: init.uniform_(t, -2, 4), 6 / math.sqrt(12)),
        (lambda t: init.normal_(t, 1.0, 0.5), 0.5),
        (lambda t: init.kaiming_uniform_(t, nonlinearity="relu"), math.sqrt(2 / 600)),
        (lambda t: init.kaiming_normal_(t, mode="fan_out", nonlinearity="tanh"), 5 / 3 / math.sqrt(800)),
        (lambda t: init.xavier_uniform_(t, gain=2.0), 2 * math.sqrt(2 / 1400)),
        (lambda t: init.xavier_normal_(t), math.sqrt(2 / 1400)),
        (lambda t: init.constant_(t, 3.0), 0),
        (init.zeros_, 0),
        (init.ones_, 0),
    ],
)
def test_initial_values(fill, std):
    dtrain.manual_seed(0)
    weight = nn.Parameter(dtrain.empty(200, 150, 2, 2))
    assert fill(weight) is weight
    assert weight.array.std() == pytest.approx(std, rel=0.02)
    assert weight.requires_grad


@pytest.mark.parametrize("name", ["linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"])
def test_gains_are_pytorchs(torch, name):
    assert init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name))
    assert init.calculate_gain("leaky_relu", 0.3) == pytest.approx(torch.nn.init.calculate_gain("leaky_relu", 0.3))


def test_init_errors():
    for call in (
        lambda: init.kaiming_uniform_(dtrain.zeros(3)),
        lambda: init.calculate_gain("swish"),
        lambda: init.kaiming_normal_(dtrain.zeros(3, 3), mode="fan"),
    ):
        with pytest.raises(ValueError, match="at least 2 dimensions|no gain|mode must be"):
            call()
