"""Tensor's own behaviour: data, gradients, conversions, indexing, in-place methods, hooks, copies."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import dtrain
from dtrain.autograd import Tensor, no_grad


def leaf(*values: float) -> Tensor:
    return Tensor(np.array(values, np.float32), requires_grad=True)


def test_wraps_without_a_copy():
    array = np.zeros(3, np.float32)
    x = Tensor(array)
    array[1] = 5
    assert x.array is array
    assert x.numpy() is array
    assert x.tolist() == [0, 5, 0]
    with pytest.raises(TypeError, match="NumPy array"):
        Tensor([1, 2])


def test_numbers_and_shape():
    x = dtrain.zeros(2, 3, 4)
    assert (x.shape, x.size(), x.size(-1), x.ndim, x.dim(), x.numel(), len(x), x.element_size()) == (
        (2, 3, 4), (2, 3, 4), 4, 3, 3, 24, 2, 4,
    )  # fmt: skip
    assert (x.device, x.device.type, x.device.index, dtrain.device("cuda:1").index) == ("cpu", "cpu", None, 1)
    assert x.is_contiguous()
    assert not x.permute(2, 0, 1).is_contiguous()
    assert dtrain.is_tensor(x)
    with pytest.raises(TypeError, match="0-dimensional"):
        len(dtrain.tensor(1))


def test_item_and_conversion_to_numbers():
    one = dtrain.tensor([[2.5]])
    assert (one.item(), float(one), int(one), bool(one), f"{dtrain.tensor(1.25):.1f}") == (2.5, 2.5, 2, True, "1.2")
    assert type(dtrain.tensor(3).item()) is int
    assert [10, 20, 30][dtrain.tensor(1)] == 20
    with pytest.raises(ValueError, match=r"one element, this one has shape \(2,\)"):
        dtrain.zeros(2).item()
    with pytest.raises(ValueError, match=r"ambiguous; use \.any\(\) or \.all\(\)"):
        bool(dtrain.zeros(2))


def test_numpy_refuses_to_lose_a_gradient():
    x = leaf(1, 2)
    for convert in (x.numpy, lambda: np.asarray(x), (x * 2).numpy):
        with pytest.raises(RuntimeError, match=r"detach\(\)\.numpy\(\)"):
            convert()
    assert x.detach().numpy() is x.array
    assert np.asarray(dtrain.ones(2), np.float64).dtype == np.float64


def test_data_shares_memory_and_assignment_keeps_the_array():
    x = leaf(1, 2)
    x.data[0] = 9
    assert x.tolist() == [9, 2]
    array = x.array
    x.data = dtrain.tensor([3.0, 4.0])
    assert x.array is array
    assert x.tolist() == [3, 4]
    x.data = dtrain.tensor([1.0, 2.0, 3.0])
    assert (x.shape, x.requires_grad, x.data.requires_grad) == ((3,), True, False)


def test_grad_is_a_tensor_that_accumulates():
    x = leaf(1, 2)
    assert x.grad is None
    (x * 3).sum().backward()
    (x * x).sum().backward()
    assert isinstance(x.grad, Tensor)
    assert not x.grad.requires_grad
    assert x.grad.tolist() == [5, 7]
    x.grad.zero_()
    x.sum().backward()
    assert x.grad.tolist() == [1, 1]


def test_gradient_does_not_share_memory_with_the_seed():
    x, seed = leaf(1, 2), dtrain.ones(2)
    y = x + 0
    y.backward(seed, retain_graph=True)
    y.backward(seed)
    assert (x.grad.tolist(), seed.tolist()) == ([2, 2], [1, 1])


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.__isub__(0.5 * p.grad),
        lambda p: p.add_(p.grad, alpha=-0.5),
        lambda p: p.sub_(p.grad * 0.5),
        lambda p: p.copy_(p - 0.5 * p.grad),
        lambda p: p.__setitem__(slice(None), p - 0.5 * p.grad),
    ],
)
def test_update_without_grad_is_in_place(change):
    p = leaf(1, 2)
    array = p.array
    (p * 4).sum().backward()
    with no_grad():
        change(p)
    assert p.array is array
    assert p.tolist() == [-1, 0]
    assert p.is_leaf
    assert p.requires_grad
    (p * 4).sum().backward()
    assert p.grad.tolist() == [8, 8]


def test_minus_equals_in_a_loop_keeps_the_parameter():
    p = same = leaf(1, 2)
    (p * 4).sum().backward()
    with no_grad():
        p -= 0.25 * p.grad
    assert p is same
    assert same.tolist() == [0, 1]


def test_augmented_assignment_in_a_graph_is_recorded():
    x = leaf(1, 2)
    y = before = x * 2
    y += x
    y *= 3
    total = 0
    for _ in range(2):
        total += y.sum()
    total.backward()
    assert x.grad.tolist() == [18, 18]
    assert before is y
    z = dtrain.zeros(2)
    z += x
    z.sum().backward()
    assert x.grad.tolist() == [19, 19]


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.add_(1), lambda x: x.zero_(), lambda x: x.fill_(1), lambda x: x.clamp_(0, 1),
        lambda x: x.copy_(x.detach()),
        lambda x: x.__setitem__(0, 1), lambda x: x.mul_(2), lambda x: x.normal_(),
    ],
)  # fmt: skip
def test_in_place_change_of_a_leaf(write):
    x = leaf(1, 2)
    with pytest.raises(RuntimeError, match=r"dtrain\.no_grad\(\)"):
        write(x)
    assert x.tolist() == [1, 2]
    with no_grad():
        write(x)


def test_minus_equals_on_a_leaf_in_a_graph_is_an_error():
    x = leaf(1, 2)
    with pytest.raises(RuntimeError, match="would change a leaf"):
        x -= 1


def test_in_place_methods_without_gradients():
    x = dtrain.tensor([1.0, -2.0])
    assert x.add_(1).mul_(2).sub_(1).div_(2).tolist() == [1.5, -1.5]
    assert x.clamp_(min=0).tolist() == [1.5, 0]
    assert x.fill_(3).tolist() == [3, 3]
    assert x.copy_(dtrain.tensor([7])).tolist() == [7, 7]
    assert (x.dtype, x.zero_().tolist()) == (np.float32, [0, 0])
    x += dtrain.tensor([1.0, 2.0], dtype=dtrain.float64)
    assert (x.dtype, x.tolist()) == (np.float32, [1, 2])
    n = dtrain.tensor([1, 2])
    with pytest.raises((TypeError, RuntimeError)):
        n += 0.5
    assert n.tolist() == [1, 2]


def test_setitem():
    x = dtrain.zeros(2, 3)
    x[0] = 1
    x[:, 1] = dtrain.tensor([5.0, 6.0])
    x[dtrain.tensor([False, True]), 2] = 7
    x[dtrain.tensor([1]), dtrain.tensor([0])] = 8
    assert x.tolist() == [[1, 5, 1], [8, 6, 7]]


def test_views_share_memory_as_basic_indexing_does():
    x = dtrain.zeros(2, 3)
    x[0][1] = 4
    x.view(6)[5] = 9
    x.T[0, 1] = 2
    assert x.tolist() == [[0, 4, 0], [2, 0, 9]]


def test_iteration_and_unpacking():
    x = Tensor(np.arange(6.0).reshape(3, 2), requires_grad=True)
    a, b, c = x
    assert [a.tolist(), b.tolist(), c.tolist()] == [[0, 1], [2, 3], [4, 5]]
    (a.sum() + 3 * c.sum()).backward()
    assert x.grad.tolist() == [[1, 1], [0, 0], [3, 3]]
    assert [int(i) for i in dtrain.arange(3)] == [0, 1, 2]
    assert list(dtrain.zeros(0)) == []
    with pytest.raises((TypeError, IndexError)):
        list(dtrain.tensor(1))


def test_to():
    x = dtrain.tensor([1.5, 2.5])
    assert x.to("cpu") is x
    assert x.to(dtrain.float32) is x
    assert x.cpu() is x
    assert x.to(dtrain.float32, copy=True) is not x
    assert x.to("cpu", dtrain.float64).dtype == x.to(dtrain.zeros(1, dtype=dtrain.float64)).dtype == np.float64
    assert (x.long().tolist(), x.int().dtype, x.bool().dtype, x.double().dtype, x.half().dtype, x.byte().dtype) == (
        [1, 2], np.int32, np.bool_, np.float64, np.float16, np.uint8,
    )  # fmt: skip
    assert x.type_as(dtrain.tensor(1)).dtype == np.int64
    with pytest.raises(ValueError, match="device 'cuda' is not available"):
        x.to("cuda")
    with pytest.raises(TypeError, match="memory_format"):
        x.to(memory_format=1)
    y = leaf(1.5)
    assert not y.long().requires_grad


def test_comparison_gives_tensors_and_hash_is_identity():
    x, y = dtrain.tensor([1.0, 2.0]), dtrain.tensor([2.0, 2.0])
    assert (x == y).tolist() == [False, True]
    assert ((x < y) | (x > 1)).tolist() == [True, True]
    assert (~(x <= 1) & (x != 3)).tolist() == [False, True]
    assert (x == y).dtype == np.bool_
    assert (x >= 2).sum().item() == 1
    assert len({x, y, x}) == 2


def test_numpy_on_the_left():
    x = leaf(1, 2)
    for result, values in (
        (np.array([3.0, 4.0], np.float32) * x, [3, 8]),
        (np.float32(2) - x, [1, 0]),
        (np.array([[1.0, 1.0]], np.float32) @ x, [3]),
        (2**x, [2, 4]),
    ):
        assert isinstance(result, Tensor)
        assert result.tolist() == values
        assert result.requires_grad


def test_is_leaf_and_grad_fn():
    x = leaf(1)
    y = x * 2
    assert (x.is_leaf, y.is_leaf, y.detach().is_leaf, dtrain.ones(1).is_leaf) == (True, False, True, True)
    assert (x.grad_fn, y.grad_fn.op, dtrain.ones(1).grad_fn) == (None, "mul", None)
    with no_grad():
        assert not (x * 2).requires_grad
    with pytest.raises(RuntimeError, match="floating-point"):
        dtrain.tensor([1]).requires_grad_()


def test_retain_grad():
    x = leaf(1, 2)
    y = x * 2
    y.retain_grad()
    (y * y).sum().backward()
    assert y.grad.tolist() == [4, 8]
    assert x.grad.tolist() == [8, 16]


def test_hooks_run_in_order_replace_and_go():
    x, seen = leaf(1, 2), []
    y = x * 3

    def record(name: str, factor: float | None = None):
        def hook(g: Tensor) -> Tensor | None:
            seen.append((name, g.tolist()))
            return None if factor is None else g * factor

        return hook

    y.register_hook(record("y"))
    first = x.register_hook(record("first", 10))
    x.register_hook(record("second"))
    y.sum().backward()
    assert seen == [("y", [1, 1]), ("first", [3, 3]), ("second", [30, 30])]
    assert x.grad.tolist() == [30, 30]
    first.remove()
    first.remove()
    seen.clear()
    (x * 2).sum().backward()
    assert seen == [("second", [2, 2])]
    assert x.grad.tolist() == [32, 32]
    with pytest.raises(RuntimeError, match="does not require a gradient"):
        dtrain.ones(1).register_hook(print)


def test_hooks_stay_without_their_handles():
    x, seen = leaf(1), []
    for i in range(5):
        x.register_hook(lambda g, i=i: seen.append(i))
    (x * 1).sum().backward()
    assert seen == [0, 1, 2, 3, 4]


def test_hook_sees_the_sum_over_consumers_once():
    x, seen = leaf(1), []
    x.register_hook(lambda g: seen.append(g.item()))
    (x * 2 + x * 3 + x.exp() * 0).sum().backward()
    assert seen == [5]


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_independent(twin_of):
    for x in (leaf(1, 2), dtrain.nn.Parameter(dtrain.ones(2)), dtrain.tensor([1, 2])):
        twin = twin_of(x)
        assert (type(twin), twin.requires_grad, twin.tolist()) == (type(x), x.requires_grad, x.tolist())
        twin.data[0] = 7
        assert x.tolist()[0] == 1
    frozen = dtrain.nn.Parameter(dtrain.ones(1), requires_grad=False)
    assert not twin_of(frozen).requires_grad


def test_deepcopy_keeps_sharing_and_gradients():
    x = leaf(1, 2)
    (x * x).sum().backward()
    a, b = copy.deepcopy([x, x])
    assert a is b
    assert a.grad.tolist() == [2, 4]
    assert a.grad.array is not x.grad.array
    with pytest.raises(RuntimeError, match="only leaf tensors"):
        copy.deepcopy(x * 2)


def test_printing():
    assert repr(dtrain.tensor([1, 2])) == "tensor([1, 2])"
    assert repr(dtrain.tensor(1.5, dtype=dtrain.float64)) == "tensor(1.5, dtype=float64)"
    assert repr(leaf(1)) == "tensor([1.], requires_grad=True)"
    assert repr(leaf(1) * 2) == "tensor([2.], grad_fn=<mul>)"
    assert repr(dtrain.nn.Parameter(dtrain.ones(1))) == "Parameter(tensor([1.], requires_grad=True))"
    assert "..." in repr(dtrain.zeros(2000))
    assert f"{dtrain.tensor([1, 2])}" == "tensor([1, 2])"


def test_methods_and_functions_agree():
    x = dtrain.tensor([[1.0, 4.0], [9.0, 16.0]])
    assert x.sqrt().tolist() == dtrain.sqrt(x).tolist() == [[1, 2], [3, 4]]
    assert x.T.tolist() == x.t().tolist() == x.mT.tolist() == [[1, 9], [4, 16]]
    assert x.max(1)[1].tolist() == x.argmax(dim=1).tolist() == [1, 1]
    assert x.view_as(dtrain.zeros(4)).shape == (4,)
    assert x.masked_fill(x > 5, 0).tolist() == [[1, 4], [0, 0]]
    assert x.relu().softmax(dim=1).sum().item() == pytest.approx(2)


def test_shapes_that_do_not_broadcast_are_named_with_the_op():
    x, y = dtrain.ones(3, 5), dtrain.ones(3, 4)
    calls = [lambda: x + y, lambda: x.bfloat16() * y, lambda: dtrain.maximum(x, y), lambda: dtrain.where(x > 0, x, y)]
    for call in calls:
        with pytest.raises(
            ValueError, match=r"^\w+: shapes .*\(3, 5\) and \(3, 4\) do not broadcast; .* one of them 1"
        ):
            call()
