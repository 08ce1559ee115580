"""Sequential, ModuleList, ModuleDict, ParameterList and ParameterDict, beside PyTorch's."""

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
    "pop a slice": lambda o: (lambda s: (repr(s.pop(slice(0, 2))), repr(s)))(
        o.Sequential(o.ReLU(), o.Tanh(), o.GELU())
    ),
    "join": lambda o: repr(o.Sequential(o.ReLU()) + o.Sequential(o.Tanh())),
    "join in place": lambda o: _changed(o.Sequential(o.ReLU()), "__iadd__", o.Sequential(o.Tanh(), o.ReLU())),
    "repeat": lambda o: repr(2 * o.Sequential(o.Linear(1, 1)) * 2),
    "repeat in place": lambda o: _changed(o.Sequential(o.ReLU(), o.Tanh()), "__imul__", 3),
    "insert into a sequence": lambda o: repr(o.Sequential(o.ReLU(), o.Tanh()).insert(-1, o.GELU())),
    "join lists": lambda o: repr(o.ModuleList([o.ReLU()]) + [o.Tanh(), o.Tanh(), o.ReLU()]),
    "list in place": lambda o: _changed(o.ModuleList([o.ReLU()]), "__iadd__", (m for m in [o.Tanh()])),
    "repr": lambda o: repr(o.ModuleDict([("a", o.ModuleList([o.Sequential(o.ReLU())] * 2)), ("b", o.Tanh())])),
    "clear": lambda o: (lambda d: (d.clear(), len(d), repr(d)))(o.ModuleDict({"a": o.ReLU()})),
    "update with pairs": lambda o: (lambda d: (d.update([["b", o.ReLU()]]), list(d)))(o.ModuleDict({"a": o.Tanh()})),
    "parameter list": lambda o: _parameter_list(o),
    "parameter dict": lambda o: _parameter_dict(o),
}


def _changed(thing: Any, method: str, other: Any) -> Any:
    same = getattr(thing, method)(other)
    return same is thing, repr(thing), [n for n, _ in thing.named_modules()]


def _zeros(o: Any, *shape: int) -> Any:
    return o.Parameter(o.Linear(*shape).weight.detach() * 0)


def _names(module: Any) -> list[Any]:
    return [(n, tuple(p.shape), p.requires_grad) for n, p in module.named_parameters()]


def _parameter_list(o: Any) -> Any:
    ps = o.ParameterList([_zeros(o, 2, 3), _zeros(o, 1, 2).detach()])
    ps.append(_zeros(o, 4, 1)).extend([3])
    ps += [_zeros(o, 1, 1)]
    ps[1] = _zeros(o, 5, 5)
    part = ps[1:3]
    outer = o.Sequential(ps)
    return len(ps), type(part).__name__, _names(part), _names(outer), list(outer.state_dict()), ps[3], _names(ps), [
        tuple(p.shape) for p in ps if p is not ps[3]
    ]  # fmt: skip


def _parameter_dict(o: Any) -> Any:
    ps = o.ParameterDict({"b": _zeros(o, 2, 3), "a": _zeros(o, 1, 2).detach(), "n": 3})
    ps["c"] = _zeros(o, 3, 3)
    ps.update([("d", _zeros(o, 1, 1))])
    both = ps | o.ParameterDict({"b": _zeros(o, 7, 7), "z": _zeros(o, 1, 4)})
    ps |= o.ParameterDict({"e": _zeros(o, 1, 1)})
    new = ps.fromkeys(["x", "y"], 1)
    return (
        _names(both), _names(ps), list(ps), "a" in ps, len(ps), ps.pop("n"), ps.popitem()[0], ps.get("q", 5),
        tuple(ps.setdefault("k", _zeros(o, 2, 2)).shape), list(reversed(ps)), list(new.items()), list(ps.copy().keys()),
        [tuple(v.shape) for v in ps.values()], (ps.clear(), len(ps), list(ps.state_dict())),
    )  # fmt: skip


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
        (lambda: nn.Sequential(nn.ReLU()) + [nn.ReLU()], ValueError),
        (lambda: nn.Sequential(nn.ReLU()) * 0, ValueError),
        (lambda: nn.Sequential(nn.ReLU()) * 1.5, TypeError),
        (lambda: nn.Sequential(nn.ReLU()).insert(2, nn.ReLU()), IndexError),
        (lambda: nn.ModuleDict(3), TypeError),
        (lambda: nn.ModuleDict([("a",)]), ValueError),
        (lambda: nn.ModuleDict([3]), TypeError),
        (lambda: nn.ParameterList([dtrain.ones(1)])[1], IndexError),
        (lambda: nn.ParameterList(dtrain.ones(1)), TypeError),
        (lambda: nn.ParameterList()(dtrain.ones(1)), RuntimeError),
        (lambda: nn.ParameterDict({"keys": dtrain.ones(1)}), KeyError),
        (lambda: nn.ParameterDict({3: dtrain.ones(1)}), TypeError),
        (lambda: nn.ParameterDict()["a"], KeyError),
    ],
)
def test_errors(call, error):
    with pytest.raises(error):
        call()
