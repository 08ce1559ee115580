"""In-place arithmetic: PyTorch's values and gradients where it is safe, an error where a gradient would be spoiled."""

from __future__ import annotations

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.autograd import Tensor
from dtrain.ops.in_place import VIEWS
from tests.ops.cases import CASES
from tests.ops.test_ops import OURS, flat, of_tensors

A, B = np.random.default_rng(0).standard_normal((2, 4, 3))


def chain(x, w):
    y = x * 2
    y.add_(w).mul_(3)
    y += 1
    y *= w.sigmoid()
    y.relu_()
    return y


def slices(x, w):
    y = x * 2
    y[1] = w[0]
    y[:, 2] *= 2
    y[[0, 3], 1] = w[2, :2] * w[1, 0]
    y[y > 1.5] = 0
    y.masked_fill_(y < -1, 0.5)
    return y


def buffer(x, w):
    out = w.new_zeros(5, 3)  # what needs no gradient takes one on
    for i in range(4):
        out[i] = x[i] * (out[i - 1].detach() + w[i])
    out[4] = 0
    return out


def overwritten(x, w):
    y = x * w
    y.zero_()
    y.copy_(w[0])
    return y * x


def clamped(x, w):
    y = x.clone()
    y.clamp_(-0.5, 0.7).div_(w, rounding_mode=None).sub_(x, alpha=2)
    y.unsqueeze_(0).transpose_(1, 2)
    return y


def of_broadcast_value(x, w):
    y = x + 0
    y[1:3] = w[:1]
    y[..., 0] = 2.0
    return y


@pytest.mark.parametrize("program", [chain, slices, buffer, overwritten, clamped, of_broadcast_value])
def test_values_and_gradients_are_pytorchs(program):
    torch = pytest.importorskip("torch")
    found = []
    for library in (torch, dtrain):
        x, w = (library.from_numpy(a.copy()).requires_grad_() for a in (A, B))
        y = program(x, w)
        (gx, gw) = library.autograd.grad((y * y).sum(), (x, w), create_graph=True)
        (second,) = library.autograd.grad((gx * gx).sum() + gw.sin().sum(), w, allow_unused=True)
        found.append([t if t is None else t.detach().numpy() for t in (y, gx, gw, second)])
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_without_gradients_memory_is_written():
    a = A.copy()
    x = dtrain.from_numpy(a)
    view = x[1]
    x.exp_()
    view += 1
    x[0].fill_(7)
    x[2, :2] = dtrain.tensor([1.0, 2.0])
    want = np.exp(A)
    want[1] += 1
    want[0], want[2, :2] = 7, (1, 2)
    np.testing.assert_array_equal(a, want)
    n = dtrain.arange(6)
    n %= 4
    n.bitwise_and_(3)
    assert n.tolist() == [0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize("write", [
    lambda w: w.add_(1), lambda w: w.exp_(), lambda w: w.__setitem__(0, 1.0), lambda w: w.zero_(),
    lambda w: w.__imul__(2), lambda w: w[0].fill_(3),
])  # fmt: skip
def test_a_write_spoils_what_a_gradient_needs(write):
    x, w = dtrain.tensor(A).requires_grad_(), dtrain.tensor(B)
    y = x * w
    write(w)
    with pytest.raises(RuntimeError, match=r"op 'mul' needs a tensor of shape \(4, 3\) that has been changed in place"):
        y.sum().backward()


def test_a_step_between_forward_and_backward_is_an_error():
    model = nn.Linear(3, 2)
    optimizer = dtrain.optim.SGD(model.parameters(), lr=0.1)
    x = dtrain.randn(4, 3).requires_grad_()
    for _ in range(2):  # the first step moves the parameters into one buffer, and spoils nothing
        loss = model(x).sum()
        loss.backward(retain_graph=True)
        optimizer.step()
    with pytest.raises(RuntimeError, match="has been changed in place since"):
        loss.backward()


def test_what_cannot_be_written():
    x = dtrain.tensor(A).requires_grad_()
    for write in (lambda: x.add_(1), lambda: x.__setitem__(0, 1), lambda: x.relu_(), lambda: x.zero_()):
        with pytest.raises(RuntimeError, match="a leaf of shape \\(4, 3\\) that requires a gradient"):
            write()
    y = x * 1
    with pytest.raises(RuntimeError, match=r"a tensor of shape \(4, 3\) is a view of another one|is a view of another"):
        y[0].mul_(2)
    with pytest.raises(RuntimeError, match="is a view of another"):
        dtrain.zeros(3, 3)[0].add_(x[0])
    with pytest.raises(RuntimeError, match=r"of shape \(4, 3\) and float64, does not fit into .*\(3,\)"):
        dtrain.ones(3).mul_(x)
    with pytest.raises(RuntimeError, match="does not fit into .* int64"):
        dtrain.arange(3).div_(2, rounding_mode=None)
    with dtrain.no_grad():
        x.mul_(2)
    np.testing.assert_array_equal(x.detach().numpy(), A * 2)


def test_views_are_named():
    """Every op whose result shares its input's memory is known as a view."""
    found = set()
    for case in CASES:
        inputs, varied = of_tensors(case, Tensor, np.float64)
        for result in flat(case.run(OURS, *inputs)):
            recorded = isinstance(result, Tensor) and result.grad_fn is not None
            if recorded and any(np.shares_memory(result.array, x.array) for x in varied):
                found.add(result.grad_fn.op.partition("[")[0])
    assert found - VIEWS == set()
    assert {"_reshape", "_permute", "slice_of"} <= found


@pytest.mark.parametrize("name", ["celu_", "elu_", "hardtanh_", "leaky_relu_", "relu_", "selu_"])
def test_functional_forms(name):
    x = dtrain.tensor(A)
    y = x.clone()
    assert getattr(nn.functional, name)(y) is y
    np.testing.assert_array_equal(y.numpy(), getattr(nn.functional, name[:-1])(x).numpy())
    assert nn.functional.threshold_(dtrain.tensor([1.0, 3.0]), 2, -1).tolist() == [-1, 3]


def test_fill_diagonal(torch):
    for shape, wrap in (((3, 3), False), ((2, 4), False), ((7, 3), False), ((7, 3), True), ((2, 2, 2), False)):
        ours, theirs = dtrain.zeros(shape), torch.zeros(shape)
        assert ours.fill_diagonal_(1.5, wrap) is ours
        np.testing.assert_array_equal(ours.numpy(), theirs.fill_diagonal_(1.5, wrap).numpy())
    x = dtrain.ones(2, 2).requires_grad_()
    (x * 2).fill_diagonal_(0).sum().backward()
    assert x.grad.tolist() == [[0, 2], [2, 0]]
    for shape in ((3,), (2, 2, 3)):
        with pytest.raises(ValueError, match="fill_diagonal_ needs"):
            dtrain.zeros(shape).fill_diagonal_(0)
