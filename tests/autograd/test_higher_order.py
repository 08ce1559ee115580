"""Gradients of gradients: beside PyTorch, and in training."""

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.autograd import functional, grad
from dtrain.nn import functional as F


def test_create_graph_gives_every_order():
    x = dtrain.tensor([0.5, 2.0], dtype=dtrain.float64).requires_grad_()
    d = x**5
    for factor, power in ((5, 4), (20, 3), (60, 2), (120, 1), (120, 0)):
        (d,) = grad(d.sum(), x, create_graph=True)
        np.testing.assert_allclose(d.detach().numpy(), factor * x.detach().numpy() ** power, rtol=1e-12)


def test_backward_with_create_graph_leaves_gradients_that_can_be_differentiated():
    x = dtrain.tensor([1.0, 2.0, 3.0]).requires_grad_()
    (x**3).sum().backward(create_graph=True)
    first = x.grad
    assert first.requires_grad and first.tolist() == [3, 12, 27]
    assert grad(first.sum(), x)[0].tolist() == [6, 12, 18]
    assert grad((x**2).sum(), x)[0].requires_grad is False


def network(lib, module, seed):
    net = module.Sequential(
        module.Linear(16, 12), module.Tanh(), module.LayerNorm(12),
        module.Linear(12, 6), module.GELU(), module.Linear(6, 3),
    ).double()  # fmt: skip
    rng = np.random.default_rng(seed)
    for p in net.parameters():
        p.data = lib.tensor(rng.standard_normal(tuple(p.shape)) * 0.4)
    return net


def penalised_steps(lib, module, cross_entropy, autograd_grad, optimizer):
    """The losses of training with a penalty on the gradient's norm (Gulrajani et al., arXiv:1704.00028)."""
    net = network(lib, module, 1)
    step = optimizer(net.parameters(), lr=0.05)
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((20, 16)), rng.integers(0, 3, 20)
    losses = []
    for _ in range(8):
        inputs = lib.tensor(x).requires_grad_()
        loss = cross_entropy(net(inputs), lib.tensor(y))
        (g,) = autograd_grad(loss, inputs, create_graph=True)
        penalty = ((((g * 20) ** 2).sum(1) + 1e-12).sqrt() - 1).pow(2).mean()
        total = loss + 0.5 * penalty
        step.zero_grad()
        total.backward()
        step.step()
        losses.append((loss.item(), penalty.item()))
    return np.array(losses)


def test_training_with_a_gradient_penalty_is_pytorchs():
    torch = pytest.importorskip("torch")
    ours = penalised_steps(dtrain, nn, nn.functional.cross_entropy, grad, dtrain.optim.SGD)
    theirs = penalised_steps(torch, torch.nn, torch.nn.functional.cross_entropy, torch.autograd.grad, torch.optim.SGD)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_training_with_a_gradient_penalty_lowers_it():
    losses = penalised_steps(dtrain, nn, nn.functional.cross_entropy, grad, dtrain.optim.SGD)
    assert losses[-1].sum() < losses[0].sum()


A = np.random.default_rng(4).standard_normal((3, 3))


def several(lib):
    a = lib.tensor(A)
    return {
        "jacobian": lambda f: f.jacobian(lambda x: (a @ x) ** 2, lib.tensor(A[0])),
        "jacobian of several": lambda f: f.jacobian(
            lambda x, y: (x * y, (x + y).sum()), (lib.tensor(A[0]), lib.tensor(A[1]))
        ),
        "hessian": lambda f: f.hessian(lambda x: (a @ x).tanh().sum(), lib.tensor(A[0])),
        "hessian of several": lambda f: f.hessian(lambda x, y: (x * x * y).sum(), (lib.tensor(A[0]), lib.tensor(A[1]))),
        "vjp": lambda f: f.vjp(lambda x: (a @ x).exp(), lib.tensor(A[0]), lib.tensor(A[1])),
        "jvp": lambda f: f.jvp(lambda x: (a @ x).exp(), lib.tensor(A[0]), lib.tensor(A[1])),
        "vhp": lambda f: f.vhp(lambda x: (a @ x).exp().sum(), lib.tensor(A[0]), lib.tensor(A[1])),
        "hvp": lambda f: f.hvp(lambda x: (a @ x).exp().sum(), lib.tensor(A[0]), lib.tensor(A[1])),
    }


def flat(value):
    return [leaf for part in value for leaf in flat(part)] if isinstance(value, (tuple, list)) else [value.numpy()]


@pytest.mark.parametrize("name", several(dtrain))
def test_functional_is_pytorchs(name):
    torch = pytest.importorskip("torch")
    got, want = flat(several(dtrain)[name](functional)), flat(several(torch)[name](torch.autograd.functional))
    assert [g.shape for g in got] == [w.shape for w in want]
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-10, atol=1e-12)


def test_jacobian_with_create_graph_can_be_differentiated():
    x = dtrain.tensor(A[0]).requires_grad_()
    found = functional.jacobian(lambda x: x**3, x, create_graph=True)
    (second,) = grad(found.sum(), x)
    np.testing.assert_allclose(second.numpy(), 6 * A[0], rtol=1e-12)


def test_functional_errors():
    x = dtrain.tensor(A[0])
    with pytest.raises(RuntimeError, match=r"do not depend on inputs \[1\]"):
        functional.jacobian(lambda x, y: x, (x, x), strict=True)
    with pytest.raises(RuntimeError, match="must return one Tensor of one element"):
        functional.hessian(lambda x: x, x)
    with pytest.raises(RuntimeError, match=r"v has shapes \[\(2,\)\], the inputs \[\(3,\)\]"):
        functional.jvp(lambda x: x, x, dtrain.zeros(2))
    with pytest.raises(TypeError, match="inputs must be Tensors, got float"):
        functional.vjp(lambda x: x, 1.0)


def test_what_was_written_in_place_is_an_error_not_a_wrong_gradient():
    x = dtrain.ones(3).requires_grad_()
    w = dtrain.ones(3)
    y = (x * w).sum()
    w.data = dtrain.zeros(3)
    with pytest.raises(RuntimeError, match="has been changed in place since"):
        y.backward()


@pytest.mark.parametrize(
    ("function", "x", "w"),
    [
        (F.linear, (4, 3), (2, 3)),
        (F.conv1d, (1, 3, 3), (2, 3, 3)),
        (lambda x, w: F.layer_norm(x @ w.mT, (2,)), (4, 3), (2, 3)),
    ],
)
def test_only_what_is_asked_for_gets_a_gradient(function, x, w):
    """Ops with formulas too: grad() leaves `.grad` of the others alone."""
    x, w = (dtrain.tensor(np.arange(np.prod(s)).reshape(s) % 5 / 3, requires_grad=True) for s in (x, w))
    (g,) = grad(function(x, w).square().sum(), x, create_graph=True)
    assert x.grad is None and w.grad is None
    g.square().sum().backward()
    assert not x.grad.requires_grad and not w.grad.requires_grad
