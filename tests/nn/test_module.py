"""Module: what it holds and in which order, state dicts, conversion, copies, messages."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.autograd import Tensor


def nested(nn: Any, tensor: Any) -> Any:
    """A model with everything: sharing of modules and parameters, buffers, own parameters, None, lists and dicts."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", tensor([2.0]))
            self.norm = nn.BatchNorm1d(3)
            self.linear = nn.Linear(3, 3)
            self.gain = nn.Parameter(tensor([1.0, 2.0]))
            self.register_buffer("scratch", tensor([0.0]), persistent=False)
            self.register_parameter("nothing", None)
            self.register_buffer("no_buffer", None)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2, bias=False)
            self.block = Block()
            self.again = self.block
            self.layers = nn.ModuleList([nn.Linear(2, 2), nn.ReLU(), Block()])
            self.parts = nn.ModuleDict({"b": nn.Linear(1, 1), "a": nn.Sequential(nn.Linear(1, 2), self.head)})
            self.tied = nn.Linear(3, 2)
            self.tied.weight = self.head.weight
            self.plain = tensor([1.0])
            self.own = nn.Parameter(tensor([3.0]))

        def forward(self, x: Any) -> Any:
            return self.head(self.block.norm(x)) * self.own

    return Net()


def net() -> Any:
    return nested(nn, dtrain.tensor)


NAMED = {
    "parameters": lambda m: [n for n, _ in m.named_parameters()],
    "own parameters": lambda m: [n for n, _ in m.named_parameters(recurse=False)],
    "prefixed parameters": lambda m: [n for n, _ in m.named_parameters(prefix="p")],
    "parameter shapes": lambda m: [tuple(p.shape) for p in m.parameters()],
    "buffers": lambda m: [n for n, _ in m.named_buffers()],
    "own buffers": lambda m: [n for n, _ in m.block.named_buffers(recurse=False)],
    "modules": lambda m: [(n, type(c).__name__) for n, c in m.named_modules()],
    "children": lambda m: [n for n, _ in m.named_children()],
    "children of a dict": lambda m: [type(c).__name__ for c in m.parts.children()],
    "number of modules": lambda m: len(list(m.modules())),
    "state dict": lambda m: sorted(m.state_dict()),
}


@pytest.mark.parametrize("what", NAMED)
def test_names_and_order_are_pytorchs(torch, what):
    assert NAMED[what](net()) == NAMED[what](nested(torch.nn, torch.tensor))


def test_state_dict_order_is_pytorchs(torch):
    assert list(net().state_dict()) == list(nested(torch.nn, torch.tensor).state_dict())
    assert list(net().block.state_dict(prefix="x.")) == [f"x.{k}" for k in net().block.state_dict()]


def test_names_without_pytorch():
    names = [n for n, _ in net().named_parameters()]
    assert names[:3] == ["own", "head.weight", "block.gain"]
    assert len(names) == len(set(names))
    assert "again.gain" not in names
    assert {"again.gain", "block.gain", "tied.weight", "block.scale"} <= set(net().state_dict())
    assert "block.scratch" not in net().state_dict()


def test_load_state_dict_copies_into_the_present_memory():
    a, b = net(), net()
    arrays = {n: p.array for n, p in b.named_parameters()}
    with dtrain.no_grad():
        for p in a.parameters():
            p += 1
    assert b.load_state_dict(a.state_dict()) == ([], [])
    for (n, p), q in zip(b.named_parameters(), a.parameters(), strict=True):
        assert p.array is arrays[n]
        np.testing.assert_array_equal(p.array, q.array)
        assert p.array is not q.array
    b.load_state_dict({k: v.numpy().astype(np.float64) for k, v in a.state_dict().items()})
    assert b.own.dtype == np.float32


def test_load_state_dict_says_all_that_is_wrong_and_changes_nothing():
    model = net()
    before = {k: v.array.copy() for k, v in model.state_dict().items()}
    wrong = {k: Tensor(v.array + 1) for k, v in model.state_dict().items()}
    del wrong["own"], wrong["parts.b.bias"]
    wrong["extra.weight"] = dtrain.ones(1)
    wrong["head.weight"] = dtrain.ones(2, 2)
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict(wrong)
    message = str(caught.value)
    assert "does not fit Net" in message
    assert "missing: own, parts.b.bias" in message
    assert "unexpected: extra.weight" in message
    assert "head.weight: (2, 2) given, (2, 3) expected" in message
    with pytest.raises(RuntimeError, match="another shape") as caught:
        model.load_state_dict(wrong, strict=False)
    assert "missing" not in str(caught.value)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value.array, before[key])
    del wrong["head.weight"]
    result = model.load_state_dict(wrong, strict=False)
    assert result == (["own", "head.weight", "parts.b.bias"], ["extra.weight"])
    assert (result.missing_keys, result.unexpected_keys) == result
    assert model.block.gain.tolist() == [2, 3]


def test_train_eval_and_apply():
    model, seen = net(), []
    assert model.training
    assert model.eval() is model
    assert not any(m.training for m in model.modules())
    model.block.train()
    assert (model.training, model.block.norm.training, model.head.training) == (False, True, False)
    assert model.apply(lambda m: seen.append(type(m).__name__)) is model
    assert seen[-1] == "Net"
    assert seen.index("Linear") < seen.index("Block")


def test_conversion_keeps_the_parameters_and_integers():
    model = net()
    parameters = list(model.parameters())
    assert model.to(dtrain.float64) is model
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
    assert model.tied.weight is model.head.weight
    assert {t.dtype for t in model.parameters()} == {np.dtype(np.float64)}
    assert {b.dtype for b in model.buffers()} == {np.dtype(np.float64), np.dtype(np.int64)}
    assert model(dtrain.zeros(2, 3, dtype=dtrain.float64)).dtype == np.float64
    assert model.float().own.dtype == np.float32
    assert model.cpu().to("cpu") is model
    with pytest.raises(ValueError, match="'cuda' is not available"):
        model.to("cuda")


def test_requires_grad_and_zero_grad():
    model = net()
    model.requires_grad_(False)
    assert not model(dtrain.ones(2, 3)).requires_grad
    model.requires_grad_()
    model.own.requires_grad_(False)
    model(dtrain.arange(6).float().reshape(2, 3)).sum().backward()
    assert (model.own.grad, model.tied.bias.grad) == (None, None)
    assert model.head.weight.grad is not None
    model.zero_grad(set_to_none=False)
    assert not model.head.weight.grad.array.any()
    model.zero_grad()
    assert model.head.weight.grad is None


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(twin_of):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    model(dtrain.randn(4, 3))  # leaves a record of the call
    twin = twin_of(model.eval())
    assert twin[2].weight is twin[0].weight
    assert not twin[1].training
    for (name, a), b in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        np.testing.assert_array_equal(a.array, b.array, err_msg=name)
        assert not np.shares_memory(a.array, b.array)
    assert {type(p) for p in twin.parameters()} == {nn.Parameter}
    assert len(list(twin.parameters())) == 5
    with dtrain.no_grad():
        twin[0].bias += 1
    assert not np.array_equal(twin[0].bias.array, model[0].bias.array)


def test_repr():
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(1, 2, 3, padding=1)))
    assert repr(model).splitlines() == [
        "Sequential(",
        "  (0): Linear(in_features=2, out_features=3, bias=True)",
        "  (1): Sequential(",
        "    (0): ReLU()",
        "    (1): Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))",
        "  )",
        ")",
    ]
    assert repr(nn.Linear(1, 1).weight).startswith("Parameter(tensor([[")


def test_super_init_is_not_needed():
    """The attributes are the only record, so a subclass that forgets super().__init__() works all the same."""

    class Forgetful(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.Linear(2, 1)
            self.register_buffer("count", dtrain.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    model = Forgetful()
    assert sorted(model.state_dict()) == ["count", "layer.bias", "layer.weight"]
    assert model.training
    assert model(dtrain.ones(3, 2)).shape == (3, 1)


def test_old_style_super_and_a_missing_forward():
    class Old(nn.Module):
        def __init__(self, size: int) -> None:
            super(Old, self).__init__()  # noqa: UP008
            self.layer = nn.Linear(size, size)

    with pytest.raises(NotImplementedError, match="Old does not define forward"):
        Old(2)(dtrain.ones(1, 2))


def test_attributes_can_be_replaced_and_removed():
    model = nn.Linear(2, 2)
    model.weight = nn.Parameter(dtrain.ones(2, 2))
    assert [n for n, _ in model.named_parameters()] == ["weight", "bias"]
    model.bias = None
    assert [n for n, _ in model.named_parameters()] == ["weight"]
    assert model(dtrain.ones(1, 2)).tolist() == [[2, 2]]
    del model.weight
    assert not list(model.parameters())
    norm = nn.BatchNorm1d(2)
    norm.running_mean = dtrain.ones(2)
    assert norm.state_dict()["running_mean"].tolist() == [1, 1]


def test_get_submodule():
    model = net()
    assert model.get_submodule("parts.a.0") is model.parts["a"][0]
    assert model.get_submodule("") is model
    with pytest.raises(AttributeError):
        model.get_submodule("parts.c")


def test_running_statistics_are_pytorchs_over_steps(torch):
    x = np.random.default_rng(0).standard_normal((5, 4, 3))
    for momentum in (0.1, None, 0.0, 1.0):
        ours = nn.BatchNorm1d(3, momentum=momentum, dtype=dtrain.float64)
        theirs = torch.nn.BatchNorm1d(3, momentum=momentum, dtype=torch.float64)
        for batch in x:
            ours(Tensor(batch))
            theirs(torch.from_numpy(batch))
        assert ours.num_batches_tracked.item() == 5
        for key, value in theirs.state_dict().items():
            np.testing.assert_allclose(ours.state_dict()[key].array, value.numpy(), rtol=1e-12)


def test_a_parameter_is_not_lost_by_assignment() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(TypeError, match="weight is a parameter and would be lost"):
        layer.weight = dtrain.zeros(2, 2)
    layer.weight = nn.Parameter(dtrain.zeros(2, 2))
    layer.weight.data = dtrain.ones(2, 2)
    assert layer.weight.sum().item() == 4


def test_what_is_found_by_name(torch):
    def run(o: Any, tensor: Any) -> Any:
        m = nested(o, tensor)
        m.block.set = o.Buffer(tensor([5.0]))
        m.block.unsaved = o.Buffer(tensor([6.0]), persistent=False)
        found = [m.get_parameter("block.gain").tolist(), m.get_buffer("layers.2.scale").tolist()]
        found.append(type(m.get_submodule("parts.a.0")).__name__)
        for get, target in (
            (m.get_parameter, "block.scale"), (m.get_parameter, "no.where"), (m.get_buffer, "block.gain"),
            (m.get_submodule, "block.nothing.x"),
        ):  # fmt: skip
            with pytest.raises(AttributeError):
                get(target)
        m.set_submodule("parts.a.0", o.Tanh())
        del m.block.scale
        return [
            *found, sorted(m.state_dict()), [n for n, _ in m.named_buffers()], len(m.state_dict(keep_vars=True)),
            [n for n, _ in m.named_parameters(remove_duplicate=False)],
            [n for n, _ in m.named_buffers(remove_duplicate=False)],
            [n for n, _ in m.named_modules(remove_duplicate=False)],
            [n for n, _ in m.named_modules(memo={m.block}, prefix="p")],
            list(m.block._modules), list(m._modules), sorted(m.state_dict(destination={"x": 1}, prefix="p.")),
            [n for n in dir(o.Sequential(o.Tanh())) if n.isdigit()],
        ]  # fmt: skip

    assert run(nn, dtrain.tensor) == run(torch.nn, torch.tensor)


def test_views_of_attributes_write_through():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert (list(model[0]._parameters), len(model[1]._buffers)) == (["weight", "bias"], 3)
    model._modules["0"] = nn.Tanh()
    del model._modules["1"]
    assert repr(model._modules) == "{'0': Tanh()}"
    with pytest.raises(KeyError):
        model._modules["training"]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda m: m.register_buffer("x", 3), TypeError),
        (lambda m: m.register_buffer("x.y", dtrain.zeros(1)), KeyError),
        (lambda m: m.register_buffer("weight", dtrain.zeros(1)), KeyError),
        (lambda m: m.register_parameter("x", dtrain.zeros(1)), TypeError),
        (lambda m: m.register_parameter("", None), KeyError),
        (lambda m: m.register_parameter("forward", None), KeyError),
        (lambda m: m.register_module("weight", nn.Tanh()), KeyError),
        (lambda m: m.add_module(3, nn.Tanh()), TypeError),
        (lambda m: m.cuda(), ValueError),
    ],
)
def test_what_a_module_does_not_take(torch, call, error):
    with pytest.raises(error):
        call(nn.Linear(1, 1))


def test_conversions_by_name():
    model = nn.BatchNorm1d(2)
    assert {t.dtype for t in model.half().state_dict().values()} == {np.dtype(np.float16), np.dtype(np.int64)}
    assert {t.dtype for t in model.type(dtrain.float64).state_dict().values()} == {np.dtype(np.float64)}
    weight = model.weight
    model.to_empty(device="cpu")
    assert model.weight is weight and weight.shape == (2,)


class Counting(nn.Module):
    """With state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = {"done": 0}
        self.layer = nn.Linear(1, 1)

    def get_extra_state(self) -> Any:
        return dict(self.steps)

    def set_extra_state(self, state: Any) -> None:
        self.steps = state


def test_extra_state():
    a, b = nn.Sequential(Counting()), nn.Sequential(Counting())
    a[0].steps["done"] = 3
    state = a.state_dict()
    assert list(state) == ["0._extra_state", "0.layer.weight", "0.layer.bias"]
    b.load_state_dict(state)
    assert b[0].steps == {"done": 3}
    del state["0._extra_state"]
    assert b.load_state_dict(state, strict=False).missing_keys == ["0._extra_state"]
    assert nn.Tanh().load_state_dict({"_extra_state": 1}, strict=False).unexpected_keys == ["_extra_state"]


def test_assign_makes_the_given_tensors_the_modules_own():
    model = nn.BatchNorm1d(2)
    model.bias.requires_grad_(False)
    state = {name: value.double() for name, value in nn.BatchNorm1d(2).state_dict().items()}
    model.load_state_dict(state, assign=True)
    assert model.weight.array is state["weight"].array
    assert (model.weight.requires_grad, model.bias.requires_grad) == (True, False)
    assert isinstance(model.weight, nn.Parameter)
    assert model.running_mean is state["running_mean"]
    model.load_state_dict(nn.BatchNorm1d(2).state_dict(keep_vars=True), assign=True)
    assert not model.bias.requires_grad
    assert model.weight.dtype == np.float32


def test_a_module_may_load_its_own_state_in_its_own_way():
    class Renamed(nn.Linear):
        def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
            if prefix + "kernel" in state_dict:
                state_dict[prefix + "weight"] = state_dict.pop(prefix + "kernel").T
            super()._load_from_state_dict(state_dict, prefix, *rest)

    model = nn.Sequential(Renamed(2, 1), nn.Linear(1, 1))
    state = model.state_dict()
    state["0.kernel"] = dtrain.tensor([[1.0], [2.0]])
    del state["0.weight"]
    given = dict(state)
    model.load_state_dict(state)
    assert model[0].weight.tolist() == [[1, 2]]
    assert state == given
