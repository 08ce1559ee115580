"""Parametrizations, beside PyTorch's."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import dtrain
from dtrain import nn, optim
from dtrain.nn.utils import parametrizations, parametrize
from tests.nn.test_reparametrized import LAYERS, same

NORMS = {
    "weight": lambda p, m: p.weight_norm(m),
    "weight, dim 1": lambda p, m: p.weight_norm(m, dim=1),
    "spectral": lambda p, m: p.spectral_norm(m),
    "spectral, 3": lambda p, m: p.spectral_norm(m, n_power_iterations=3, dim=1),
    "bias": lambda p, m: p.spectral_norm(m, "bias", dim=0),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layer", LAYERS)
def test_norms_are_pytorchs(torch, layer, norm):
    make, shape = LAYERS[layer]
    theirs = NORMS[norm](torch.nn.utils.parametrizations, make(torch.nn).double())
    ours = NORMS[norm](parametrizations, make(nn).double())
    assert repr(ours) == repr(theirs)
    same(torch, ours, theirs, shape)


def symmetric(o):
    class Symmetric(o.Module):
        def forward(self, x):
            return (x + x.T) / 2

        def right_inverse(self, x):
            return x * 1

    return Symmetric()


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * 2


def test_one_after_the_other_and_back(torch):
    made = []
    for o, parts in ((nn, parametrize), (torch.nn, torch.nn.utils.parametrize)):
        layer = o.Linear(3, 3)
        weight = layer.weight
        parts.register_parametrization(layer, "weight", symmetric(o))
        parts.register_parametrization(layer, "weight", symmetric(o))
        assert layer.parametrizations.weight.original is weight
        assert (parts.is_parametrized(layer), parts.is_parametrized(layer, "bias")) == (True, False)
        assert parts.type_before_parametrizations(layer) is o.Linear
        layer.weight = (weight * 0 + 3).detach()
        assert layer.weight.tolist() == [[3.0] * 3] * 3
        made.append([list(layer.state_dict()), type(layer).__name__, repr(layer).replace("torch", "")])
        parts.remove_parametrizations(layer, "weight")
        assert layer.weight is weight
        assert type(layer) is o.Linear
        made[-1].append([n for n, _ in layer.named_parameters()])
    assert made[0] == made[1]


def test_cached_computes_once():
    layer = nn.Linear(2, 2)
    doubled = Doubled()
    parametrize.register_parametrization(layer, "weight", doubled)
    before = doubled.calls
    with parametrize.cached(), parametrize.cached():
        assert layer.weight is layer.weight
    assert doubled.calls == before + 1
    assert layer.weight is not layer.weight


def test_copies_are_apart_and_pickles_refused():
    layer = parametrizations.weight_norm(nn.Linear(2, 2))
    twin = copy.deepcopy(layer)
    twin.parametrizations.weight.original0.data = dtrain.zeros(2, 1)
    assert not twin.weight.array.any()
    assert layer.weight.array.all()
    with pytest.raises(RuntimeError, match="state_dict"):
        pickle.dumps(layer)


def test_old_state_dicts_load():
    old, new = nn.utils.weight_norm(nn.Linear(2, 3)), parametrizations.weight_norm(nn.Linear(2, 3))
    new.load_state_dict(old.state_dict())
    np.testing.assert_array_equal(new.weight.array, old.weight.array)


def test_errors():
    class Flat(nn.Module):
        def forward(self, x):
            return x.reshape(-1)

    layer = nn.Linear(2, 3)
    with pytest.raises(ValueError, match=r"shape \(3, 2\) to float32 of shape \(6,\)"):
        parametrize.register_parametrization(layer, "weight", Flat())
    with pytest.raises(ValueError, match="no parameter or buffer 'w'"):
        parametrize.register_parametrization(layer, "w", Flat())
    with pytest.raises(ValueError, match="not parametrized"):
        parametrize.remove_parametrizations(layer, "weight")
    nn.flat.flatten(optim.SGD(layer.parameters(), lr=0.1).param_groups[0]["params"])
    with pytest.raises(RuntimeError, match="before the optimizer is made"):
        parametrizations.weight_norm(layer)
    parametrize.register_parametrization(layer, "weight", Doubled())
    with pytest.raises(RuntimeError, match="no right_inverse"):
        layer.weight = dtrain.ones(3, 2)
    with pytest.raises(ValueError, match="3 tensors|2 tensors"):
        parametrize.remove_parametrizations(parametrizations.weight_norm(nn.Linear(2, 2)), "weight", False)
