"""Sequential, ModuleList and ModuleDict, beside PyTorch's."""

from __future__ import annotations

from typing import Any

import pytest

import dtrain
from dtrain import nn

# Each gives something to compare; o is dtrain.nn or torch.nn.
CALLS: dict[str, Any] = {
    "index": lambda o: [type(o.Sequential(o.ReLU(), o.Tanh(), o.GELU())[i]).__name__ for i in (0, -1, 1)],
    "slice": lambda o: [n for n, _ in o.Sequential(o.Linear(1, 1), o.Tanh(), o.Linear(1, 2))[1:].named_parameters()],
    "slice of a list": lambda o: (
        type(o.ModuleList([o.Tanh(), o.ReLU()])[:1]).__name__,
        len(o.ModuleList([o.Tanh()])[:1]),
    ),
    "length": lambda o: (len(o.Sequential()), len(o.ModuleList([o.ReLU()] * 3)), len(o.ModuleDict({"a": o.ReLU()}))),
    "iteration": lambda o: [type(m).__name__ for m in o.ModuleList([o.ReLU(), o.Tanh(), o.ReLU()])],
    "same module twice": lambda o: [n for n, _ in (lambda r: o.Sequential(r, r, o.Tanh()))(o.ReLU()).named_modules()],
    "append": lambda o: list(o.Sequential(o.ReLU()).append(o.Linear(1, 1)).state_dict()),
    "extend": lambda o: list(o.ModuleList().extend([o.Linear(1, 1), o.ReLU(), o.Linear(1, 1)]).state_dict()),
    "names": lambda o: list(
        o.Sequential({"first": o.Linear(1, 1), "second": o.ReLU()} if o is nn else _ordered(o)).state_dict()
    ),
    "insert": lambda o: _inserted(o),
    "set": lambda o: _set(o),
    "delete": lambda o: _deleted(o),
    "add_module": lambda o: _added(o),
    "dict": lambda o: _dict(o),
    "contains": lambda o: ("a" in o.ModuleDict({"a": o.ReLU()}), "b" in o.ModuleDict({"a": o.ReLU()})),
    "pop": lambda o: _popped(o),
}


def _ordered(o: Any) -> Any:
    from collections import OrderedDict

    return OrderedDict(first=o.Linear(1, 1), second=o.ReLU())


def _inserted(o: Any) -> Any:
    modules = o.ModuleList([o.ReLU(), o.Tanh()])
    modules.insert(1, o.Linear(1, 1))
    modules.insert(0, o.GELU())
    return [(n, type(m).__name__) for n, m in modules.named_children()]


def _set(o: Any) -> Any:
    modules = o.Sequential(o.ReLU(), o.Tanh(), o.GELU())
    modules[1], modules[-1] = o.Linear(1, 1), o.Sigmoid()
    return [(n, type(m).__name__) for n, m in modules.named_children()]


def _deleted(o: Any) -> Any:
    modules = o.ModuleList([o.ReLU(), o.Tanh(), o.GELU()])
    del modules[1]
    modules.append(o.Sigmoid())
    return [(n, type(m).__name__) for n, m in modules.named_children()]


def _added(o: Any) -> Any:
    modules = o.Sequential()
    modules.add_module("x", o.Linear(1, 1))
    modules.append(o.ReLU())
    return [n for n, _ in modules.named_children()]


def _dict(o: Any) -> Any:
    d = o.ModuleDict({"b": o.ReLU()})
    d["a"] = o.Linear(1, 1)
    d.update({"c": o.Tanh(), "b": o.GELU()})
    del d["c"]
    return (
        list(d),
        list(d.keys()),
        [type(m).__name__ for m in d.values()],
        [k for k, _ in d.items()],
        type(d["b"]).__name__,
    )


def _popped(o: Any) -> Any:
    d, modules = o.ModuleDict({"a": o.ReLU(), "b": o.Tanh()}), o.ModuleList([o.ReLU(), o.Tanh()])
    return type(d.pop("a")).__name__, list(d), type(modules.pop(0)).__name__, [n for n, _ in modules.named_children()]


@pytest.mark.parametrize("name", CALLS)
def test_same_as_pytorch(torch, name):
    assert CALLS[name](nn) == CALLS[name](torch.nn)


def test_sequential_applies_in_order():
    dtrain.manual_seed(0)
    a, b = nn.Linear(2, 3), nn.Linear(3, 1)
    x = dtrain.randn(4, 2)
    assert nn.Sequential(a, nn.ReLU(), b)(x).tolist() == b(nn.ReLU()(a(x))).tolist()
    assert nn.Sequential()(x) is x


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: nn.ModuleList([nn.ReLU()])[1], IndexError),
        (lambda: nn.ModuleDict({"a": nn.ReLU()})["b"], KeyError),
        (lambda: nn.ModuleDict({"keys": nn.ReLU()}), KeyError),
        (lambda: nn.Sequential(nn.ReLU(), 3), TypeError),
        (lambda: nn.ModuleList([dtrain.relu]), TypeError),
        (lambda: nn.ModuleList([nn.ReLU()])(dtrain.ones(1)), NotImplementedError),
    ],
)
def test_errors(call, error):
    with pytest.raises(error):
        call()
