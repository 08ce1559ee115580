"""Module.backward: a hand-written chain of backward calls gives the engine's gradients."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.autograd import Tensor


class SimpleNet(nn.Module):
    """With the backward of the classic tutorial, layer by layer."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, hidden)
        self.activation = nn.ReLU()
        self.output = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.activation(self.linear(x)))

    def backward(self, grad: Tensor) -> Tensor:
        grad = self.output.backward(grad)
        grad = self.activation.backward(grad)
        return self.linear.backward(grad)


def make(seed: int = 0) -> tuple[SimpleNet, Tensor, Tensor]:
    dtrain.manual_seed(seed)
    return SimpleNet(4, 5, 3), dtrain.randn(6, 4), dtrain.randn(6, 3)


def gradients(net: nn.Module) -> list[np.ndarray]:
    return [p.grad.array for p in net.parameters()]


@pytest.mark.parametrize("requires_grad", [False, True])
def test_chain_equals_the_engine(requires_grad):
    net, x, g = make()
    reference = x.detach().requires_grad_()
    net(reference).backward(g)
    want = gradients(net)
    net.zero_grad()
    x.requires_grad_(requires_grad)
    y = net(x)
    assert y.requires_grad
    gx = net.backward(g)
    np.testing.assert_array_equal(gx.array, reference.grad.array)
    for a, b in zip(gradients(net), want, strict=True):
        np.testing.assert_array_equal(a, b)
    assert x.grad is None  # it is returned


def test_loss_and_sequential():
    net, x, _ = make()
    labels = dtrain.tensor([0, 1, 2, 2, 1, 0])
    loss = nn.CrossEntropyLoss()
    loss(net(x), labels).backward()
    want = gradients(net)
    net.zero_grad()
    chain = nn.Sequential(net.linear, net.activation, net.output)
    value = loss(chain(x), labels)
    assert value.shape == ()
    gx = chain.backward(loss.backward())
    for a, b in zip(gradients(net), want, strict=True):
        np.testing.assert_array_equal(a, b)
    assert gx.shape == x.shape


def test_gradients_accumulate_over_calls():
    net, x, g = make()
    y = net(x)
    net.backward(g)
    once = [a.copy() for a in gradients(net)]
    y = net(x)
    net.backward(g)
    assert y.requires_grad
    for a, b in zip(gradients(net), once, strict=True):
        np.testing.assert_array_equal(a, 2 * b)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Conv2d(2, 3, 3), (2, 2, 5, 5)), (lambda: nn.BatchNorm2d(2), (2, 2, 3, 3)),
        (lambda: nn.MaxPool2d(2), (1, 2, 4, 4)),
        (lambda: nn.Flatten(), (2, 3, 2)), (lambda: nn.LayerNorm(3), (2, 3)), (lambda: nn.GELU(), (2, 3)),
        (lambda: nn.Softmax(1), (2, 3)),
        (lambda: nn.Dropout(0.5), (4, 5)), (lambda: nn.Sequential(nn.Sequential(nn.Linear(3, 2)), nn.Tanh()), (2, 3)),
    ],
)  # fmt: skip
def test_layers(layer, shape):
    dtrain.manual_seed(1)
    module, x = layer(), dtrain.randn(*shape).requires_grad_()
    y = module(x)
    g = dtrain.randn(*y.shape)
    got = module.backward(g)
    dtrain.manual_seed(1)
    module, x = layer(), dtrain.randn(*shape).requires_grad_()
    module(x).backward(g)
    np.testing.assert_array_equal(got.array, x.grad.array)


def test_several_inputs_and_outputs():
    class Both(nn.Module):
        def forward(self, a: Tensor, b: Tensor, k: Tensor) -> tuple[Tensor, Tensor, None]:
            return a * b, a + b[k], None

    module, a, b = Both(), dtrain.tensor([1.0, 2.0]), dtrain.tensor([3.0, 4.0])
    module.weight = nn.Parameter(dtrain.ones(2))
    outputs = module(a * module.weight, b.requires_grad_(), dtrain.tensor([1, 1]))
    ga, gb = module.backward(dtrain.ones(2), dtrain.tensor([10.0, 20.0]))
    assert (ga.tolist(), gb.tolist()) == ([13, 24], [1, 32])
    assert module.weight.grad is None
    outputs = module(a.requires_grad_(), b, dtrain.tensor([1, 1]))
    with pytest.raises(ValueError, match="needs 2 gradients, one per output, got 1"):
        module.backward(dtrain.ones(2))
    assert len(outputs) == 3


def test_embedding_has_no_gradient_of_its_input():
    table = nn.Embedding(4, 2)
    y = table(dtrain.tensor([1, 1, 3]))
    result = table.backward(dtrain.ones(3, 2))
    assert result is None or result == ()
    assert y.shape == (3, 2)
    assert table.weight.grad.tolist() == [[0, 0], [2, 2], [0, 0], [1, 1]]


def test_input_that_the_graph_does_not_reach():
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(dtrain.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * float(x.sum())

    module = Constant()
    y = module(dtrain.ones(2))  # the input is gone at once
    assert module.backward(dtrain.ones(2)) is None
    assert (y.tolist(), module.weight.grad.tolist()) == ([2, 2], [2, 2])


def test_errors():
    net, x, g = make()
    with pytest.raises(RuntimeError, match=r"Linear\.backward was called before a forward call"):
        net.linear.backward(g)
    with dtrain.no_grad():
        net(x)
    with pytest.raises(RuntimeError, match="before a forward call with gradients on"):
        net.backward(g)
    y = net(x)
    net.output.backward(g)
    with pytest.raises(RuntimeError, match=r"Linear\.backward: the graph of the last call is gone"):
        net.output.backward(g)
    y = net(x)
    with pytest.raises(ValueError, match="the output has shape"):
        net.output.backward(dtrain.ones(2, 2))
    assert y.shape == (6, 3)


def test_the_record_of_a_call_keeps_nothing_alive():
    net, x, _ = make()
    gc.disable()
    try:
        y = net(x)
        node = weakref.ref(y.node)
        del y
        assert node() is None
    finally:
        gc.enable()
