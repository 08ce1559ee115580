"""Weight norm, spectral norm, parameters as a vector and functional_call, beside PyTorch's."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest

import dtrain
from dtrain import nn, optim
from dtrain.autograd import Tensor
from dtrain.comm import run_ranks
from dtrain.nn import utils

LAYERS = {
    "linear": (lambda o: o.Linear(4, 3), (5, 4)),
    "conv": (lambda o: o.Conv2d(2, 4, 3, groups=2), (2, 2, 5, 5)),
    "transposed": (lambda o: o.ConvTranspose1d(2, 3, 3), (2, 2, 5)),
}
NORMS = {
    "weight": lambda u, m: u.weight_norm(m),
    "weight, one norm": lambda u, m: u.weight_norm(m, dim=None),
    "weight, dim 1": lambda u, m: u.weight_norm(m, dim=1),
    "spectral": lambda u, m: u.spectral_norm(m),
    "spectral, 3": lambda u, m: u.spectral_norm(m, n_power_iterations=3, dim=1),
}


def same(torch, ours, theirs, shape, steps=2):
    """Keys, values, gradients and steps of SGD are PyTorch's, in training and in evaluation."""
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    ours.load_state_dict({k: v.numpy() for k, v in state.items()})
    x = np.random.default_rng(0).standard_normal(shape)
    mine, its = optim.SGD(ours.parameters(), lr=0.1), torch.optim.SGD(theirs.parameters(), lr=0.1)
    for _ in range(steps):
        y, z = ours(Tensor(x)), theirs(torch.from_numpy(x))
        np.testing.assert_allclose(y.array, z.detach().numpy(), rtol=1e-9, atol=1e-12)
        mine.zero_grad()
        its.zero_grad()
        (y * y).sum().backward()
        (z * z).sum().backward()
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            np.testing.assert_allclose(p.grad.array, q.grad.numpy(), rtol=1e-8, atol=1e-11)
        mine.step()
        its.step()
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        np.testing.assert_allclose(a.array, b.numpy(), rtol=1e-8, atol=1e-11, err_msg=name)
    ours.eval()
    theirs.eval()
    want = theirs(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(ours(Tensor(x)).array, want, rtol=1e-8, atol=1e-11)
    twin = copy.deepcopy(ours)
    np.testing.assert_array_equal(twin(Tensor(x)).array, ours(Tensor(x)).array)
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in ours.parameters()}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layer", LAYERS)
def test_norms_are_pytorchs(torch, layer, norm):
    make, shape = LAYERS[layer]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = NORMS[norm](torch.nn.utils, make(torch.nn).double())
    ours = NORMS[norm](utils, make(nn).double())
    same(torch, ours, theirs, shape)
    before = ours(dtrain.ones(*shape, dtype=dtrain.float64))
    removed = (utils.remove_weight_norm if norm.startswith("weight") else utils.remove_spectral_norm)(ours)
    assert sorted(removed.state_dict()) == ["bias", "weight"]
    np.testing.assert_allclose(removed(dtrain.ones(*shape, dtype=dtrain.float64)).array, before.array, rtol=1e-12)


def test_what_is_held_already_is_refused():
    layer = nn.Linear(3, 2)
    optim.SGD(layer.parameters(), lr=0.1).step()
    if layer.weight._flat is None:
        nn.flat.flatten(layer.parameters())
    with pytest.raises(RuntimeError, match="before the optimizer is made"):
        utils.weight_norm(layer)
    utils.spectral_norm(layer)  # the optimizer goes on with the same parameter

    def wrapped(comm):
        model = dtrain.DistributedDataParallel(nn.Linear(3, 2), comm, microbatches=1)
        model(dtrain.ones(2, 3)).sum().backward()
        for norm in (utils.weight_norm, utils.spectral_norm):
            with pytest.raises(RuntimeError, match="before the module is wrapped"):
                norm(model.module)

    run_ranks(1, wrapped)


def test_errors():
    layer = utils.weight_norm(nn.Linear(3, 2))
    with pytest.raises(RuntimeError, match="already"):
        utils.weight_norm(layer)
    with pytest.raises(RuntimeError, match="already"):
        utils.spectral_norm(utils.spectral_norm(nn.Linear(3, 2)))
    with pytest.raises(ValueError, match="no weight norm"):
        utils.remove_weight_norm(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="no spectral norm"):
        utils.remove_spectral_norm(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="positive"):
        utils.spectral_norm(nn.Linear(3, 2), n_power_iterations=0)


def test_parameters_as_a_vector():
    layer = nn.Linear(3, 2)
    vector = utils.parameters_to_vector(layer.parameters())
    assert vector.tolist() == [*layer.weight.array.ravel().tolist(), *layer.bias.tolist()]
    vector.sum().backward()
    assert layer.bias.grad.tolist() == [1, 1]
    nn.flat.flatten(layer.parameters())
    utils.vector_to_parameters(dtrain.arange(8.0), layer.parameters())
    assert (layer.weight.tolist(), layer.bias.tolist()) == ([[0, 1, 2], [3, 4, 5]], [6, 7])
    with pytest.raises(ValueError, match=r"8 elements, got shape \(7,\)"):
        utils.vector_to_parameters(dtrain.zeros(7), layer.parameters())
    with pytest.raises(TypeError, match="list"):
        utils.vector_to_parameters([1.0], layer.parameters())


def test_functional_call():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    net.append(net[0])
    before = {name: t.array.copy() for name, t in net.state_dict().items()}
    weight = dtrain.randn(3, 3, requires_grad=True)
    mean = dtrain.zeros(3)
    x = dtrain.randn(4, 3)
    y = dtrain.func.functional_call(net, ({"0.weight": weight}, {"1.running_mean": mean}), x)
    want = nn.functional.linear(net[1](nn.functional.linear(x, weight, net[0].bias)), weight, net[0].bias)
    np.testing.assert_allclose(y.array, want.array, rtol=1e-5)
    y.sum().backward()
    assert weight.grad is not None
    assert net[0].weight.grad is None
    assert mean.array.any()
    for name in ("0.weight", "2.weight"):
        np.testing.assert_array_equal(net.state_dict()[name].array, before[name])
    with pytest.raises(RuntimeError, match=r"missing .*'0.bias'.* unknown \['z'\]"):
        utils.stateless.functional_call(net, {"z": mean}, (x,), strict=True)
    with pytest.raises(ValueError, match="twice: z"):
        utils.stateless.functional_call(net, [{"z": mean}, {"z": mean}], (x,))
