"""Checkpointed pieces of a network give the bits of the network itself, and keep less."""

import tracemalloc

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.utils.checkpoint import checkpoint, checkpoint_sequential


def layers(n=4):
    dtrain.manual_seed(3)
    return nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Dropout(0.3)) for _ in range(n)])


def gradients(run):
    net = layers()
    x = dtrain.tensor(np.random.default_rng(0).standard_normal((5, 8)), dtype=dtrain.float32).requires_grad_()
    dtrain.manual_seed(7)
    y = run(net, x)
    after = dtrain.rand(2)  # draws go on from where they would be
    (y * y).sum().backward()
    return [
        t.tobytes()
        for t in (y.detach().numpy(), x.grad.numpy(), after.numpy(), *[p.grad.numpy() for p in net.parameters()])
    ]


@pytest.mark.parametrize(
    "run",
    [
        lambda net, x: checkpoint(net, x, use_reentrant=False),
        lambda net, x: net[3](checkpoint(lambda a, b: net[2](net[1](a + b)), net[0](x), dtrain.zeros(8))),
        lambda net, x: checkpoint_sequential(net, 2, x),
        lambda net, x: checkpoint(lambda a: checkpoint(net, a), x),
        lambda net, x: net[3](net[2](checkpoint(lambda a: (net[1](net[0](a)), a * 2), x)[0])),
    ],
    ids=["all", "middle", "sequential", "nested", "one of two outputs"],
)
def test_same_bits_as_without(run):
    assert gradients(run) == gradients(lambda net, x: net(x))


def test_several_outputs_and_shared_parameters():
    w = dtrain.tensor([2.0, 3.0]).requires_grad_()
    x = dtrain.tensor([1.0, 5.0]).requires_grad_()
    a, b = checkpoint(lambda x: (x * w, x * x), x)
    (a.sum() * 2 + b[1] + (w * w).sum()).backward()
    assert w.grad.tolist() == [2 * 1 + 4, 2 * 5 + 6] and x.grad.tolist() == [4, 6 + 10]


def test_without_gradients_it_is_the_function():
    with dtrain.no_grad():
        assert checkpoint(lambda x: x + 1, dtrain.zeros(1)).item() == 1
    assert not checkpoint(lambda x: x + 1, dtrain.zeros(1)).requires_grad


def test_clear_errors():
    x = dtrain.ones(2).requires_grad_()
    with pytest.raises(TypeError, match="must return a Tensor or a tuple of them, got int"):
        checkpoint(lambda x: 3, x)
    with pytest.raises(ValueError, match="segments must be 1 to 4"):
        checkpoint_sequential(layers(), 5, x)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        dtrain.autograd.grad(checkpoint(lambda x: x * x * x, x).sum(), x, create_graph=True)


def test_it_keeps_less():
    net = nn.Sequential(*[nn.GELU() for _ in range(20)])
    x = dtrain.rand(1000, 100).requires_grad_()

    def kept(run):
        tracemalloc.start()
        y = run(x)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        y.sum().backward()
        return size

    assert kept(lambda x: checkpoint_sequential(net, 4, x)) < 0.5 * kept(net)
