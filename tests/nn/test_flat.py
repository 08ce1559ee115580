"""Flat buffers: parameters and gradients as views of one array, whatever is done to them."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import dtrain
from dtrain import nn, optim
from dtrain.autograd import Tensor
from dtrain.backend import cpu
from dtrain.nn.flat import flatten


def model() -> nn.Sequential:
    dtrain.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def assert_views(flat, tensors) -> None:
    for t in tensors:
        assert np.shares_memory(t.array, flat.data)
        assert t._flat.flat is flat
        np.testing.assert_array_equal(flat.data[t._flat.slice], t.array.ravel())


def test_values_stay_and_order_is_that_of_arriving_gradients():
    net = model()
    before = [p.array.copy() for p in net.parameters()]
    (flat,) = flatten(net.parameters())
    for p, b in zip(net.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.array, b)
    assert_views(flat, net.parameters())
    assert [id(t) for t in flat.tensors] == [id(p) for p in reversed(list(net.parameters()))]
    assert flat.is_whole()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_every_tensor_starts_on_64_bytes_and_gaps_are_zero(dtype):
    tensors = [dtrain.Tensor(np.ones(n, dtype)) for n in (1, 17, 0, 32, 5)]
    (flat,) = flatten(tensors)
    ends = 0
    for t in flat.tensors:
        assert t._flat.slice.start * t.dtype.itemsize % 64 == 0
        assert t._flat.slice.start >= ends
        ends = t._flat.slice.stop
    assert flat.data.sum() == 55
    assert len(flat.data) == len(flat.grad)


def test_gradients_arrive_in_the_flat_buffer():
    net = model()
    (flat,) = flatten(net.parameters())
    net(dtrain.ones(4, 3)).sum().backward()
    assert all(p.grad is p._flat.grad for p in net.parameters())
    once = flat.grad.copy()
    assert once.any()
    net(dtrain.ones(4, 3)).sum().backward()
    np.testing.assert_array_equal(flat.grad, 2 * once)
    net.zero_grad()
    assert net[0].weight.grad is None
    net(dtrain.ones(4, 3)).sum().backward()  # what was there before does not count
    np.testing.assert_array_equal(flat.grad, once)


def test_present_gradients_move_along():
    net = model()
    net(dtrain.ones(4, 3)).sum().backward()
    before = [p.grad.array.copy() for p in net.parameters()]
    flatten(net.parameters())
    for p, b in zip(net.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.grad.array, b)
        assert p.grad is p._flat.grad


def test_views_survive_what_users_do():
    net = model()
    (flat,) = flatten(net.parameters())
    net.load_state_dict({k: dtrain.full_like(v, 2.0) for k, v in net.state_dict().items()})
    assert_views(flat, net.parameters())
    net[0].weight.data = dtrain.ones(5, 3)
    net[0].bias.data[:] = 3
    with dtrain.no_grad():
        net[2].weight.zero_()
        net[2].bias -= 1
    assert_views(flat, net.parameters())
    assert flat.is_whole()
    assert flat.data.sum() == 15 + 15 + 0 + 2
    net.float().cpu()
    assert flatten(net.parameters()) == [flat]


def test_another_dtype_is_another_flat():
    net = model()
    (flat,) = flatten(net.parameters())
    net.double()
    assert not flat.is_whole()
    (again,) = flatten(net.parameters())
    assert again is not flat
    assert again.data.dtype == np.float64
    assert_views(again, net.parameters())
    net[0].float()
    kinds = {f.data.dtype: len(f.tensors) for f in flatten(net.parameters())}
    assert kinds == {np.dtype(np.float32): 2, np.dtype(np.float64): 2}


def test_a_present_flat_is_kept_and_its_order_survives():
    net = model()
    (flat,) = flatten(net.parameters())
    assert flatten(list(net.parameters())) == [flat]
    assert flatten(reversed(list(net.parameters()))) == [flat]
    part = list(net[0].parameters())
    (smaller,) = flatten(part)
    assert not flat.is_whole()
    assert smaller.tensors == [t for t in flat.tensors if any(t is p for p in part)]


def test_copies_are_not_views_of_the_original():
    net = model()
    (flat,) = flatten(net.parameters())
    twin = copy.deepcopy(net)
    assert all(p._flat is None for p in twin.parameters())
    with dtrain.no_grad():
        twin[0].weight.zero_()
    assert net[0].weight.array.any()
    assert flat.is_whole()


def test_optimizers_follow_parameters_that_moved():
    def train(convert: bool) -> list[np.ndarray]:
        net = model().double()
        optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for step in range(4):
            if convert and step == 2:
                flatten(net[0].parameters())  # someone else takes a part
            optimizer.zero_grad()
            net(dtrain.ones(2, 3, dtype=dtrain.float64)).square().sum().backward()
            optimizer.step()
        return [p.array.copy() for p in net.parameters()]

    for a, b in zip(train(False), train(True), strict=True):
        np.testing.assert_array_equal(a, b)


def _once(net, x):
    net(x).sum().backward()


def _twice_in_the_graph(net, x):
    (net(x) + net(x * 2)).sum().backward()


def _twice(net, x):
    net(x).sum().backward()
    net(x * 2).sum().backward()


def _with_a_hook(net, x):
    for p in net.parameters():
        p.register_hook(lambda g: g * 3)
    net(x).sum().backward()


def _without_keeping(net, x):
    dtrain.autograd.grad(net(x).sum(), list(net.parameters()))


@pytest.mark.parametrize(
    ("walk", "direct"), [(_once, 3), (_twice_in_the_graph, 0), (_twice, 3), (_with_a_hook, 0), (_without_keeping, 0)]
)
def test_gradients_of_weights_are_written_where_they_are_kept(walk, direct, monkeypatch):
    """Straight into flat memory, where they are all of the gradient; with the bytes of other ways."""
    dtrain.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 90), nn.Linear(90, 70))
    nets = [net, copy.deepcopy(net)]
    flatten(nets[1].parameters())
    taken = []
    receive = Tensor.receive
    monkeypatch.setattr(
        Tensor, "receive", lambda t, g: (taken.append(t._flat is not None and g is t._flat.grad.array), receive(t, g))
    )
    x = Tensor(np.random.default_rng(0).standard_normal((100, 2, 6, 6)).astype(np.float32))
    for net in nets:
        walk(net, x)
    assert sum(taken) == (direct if cpu.available() else direct and 2)
    for p, q in zip(*(net.parameters() for net in nets), strict=True):
        assert (p.grad is None) == (q.grad is None) == (walk is _without_keeping)
        if p.grad is not None:
            assert p.grad.array.tobytes() == q.grad.array.tobytes() and np.shares_memory(
                q.grad.array, q._flat.flat.grad
            )
