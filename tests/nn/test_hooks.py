"""Hooks of modules: the same program beside PyTorch, and the bits of calls without them."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import nn

OURS = SimpleNamespace(nn=nn, tensor=lambda a: dtrain.tensor(np.asarray(a, np.float64)), zeros=dtrain.zeros)


def theirs(torch: Any) -> SimpleNamespace:
    return SimpleNamespace(nn=torch.nn, tensor=lambda a: torch.tensor(np.asarray(a, np.float64)), zeros=torch.zeros)


def values(t: Any) -> Any:
    if isinstance(t, (tuple, list)):
        return [values(v) for v in t]
    return None if t is None else [tuple(t.shape), np.round(np.asarray(t.detach().numpy(), np.float64), 10).tolist()]


X = np.arange(6.0).reshape(2, 3) / 3 - 1
W = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]])


class Twice:
    """A module of two inputs and two outputs, made of either library's names."""

    @staticmethod
    def of(o: Any) -> Any:
        class Net(o.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = o.nn.Parameter(o.tensor(W))

            def forward(self, x: Any, y: Any = None, scale: float = 1.0) -> Any:
                h = (x @ self.weight.T) * scale
                return (h, h * h + (0 if y is None else y.sum())) if y is not None else h

        return Net()


def forward_hooks(o: Any) -> Any:
    net, seen = Twice.of(o), []
    net.register_forward_pre_hook(lambda m, args: seen.append(("pre", values(args))))
    net.register_forward_pre_hook(lambda m, args: args[0] * 2, prepend=True)
    net.register_forward_hook(lambda m, args, output: seen.append(("post", values(args), values(output))))
    last = net.register_forward_hook(lambda m, args, output: output + 1)
    net.register_forward_hook(
        lambda m, args, kwargs, output: seen.append(sorted(kwargs)), with_kwargs=True, prepend=True
    )
    y = net(o.tensor(X), scale=3.0)
    last.remove()
    last.remove()
    return seen, values(y), values(net(o.tensor(X)))


def hooks_with_kwargs(o: Any) -> Any:
    net = Twice.of(o)
    handle = net.register_forward_pre_hook(
        lambda m, args, kwargs: ((args[0] + 1,), {"scale": kwargs.get("scale", 1.0) * 2}), with_kwargs=True
    )
    found = [values(net(o.tensor(X), scale=3.0))]
    with handle:
        found.append(values(net(o.tensor(X))))
    return [*found, values(net(o.tensor(X)))]


def after_an_error(o: Any) -> Any:
    net, seen = Twice.of(o), []
    net.register_forward_hook(lambda m, args, output: seen.append(output), always_call=True)
    net.register_forward_hook(lambda m, args, output: seen.append("not called"))
    try:
        net("no tensor")
    except Exception as error:
        seen.append(isinstance(error, (TypeError, AttributeError)))
    return seen


def backward_hooks(o: Any) -> Any:
    net, seen = Twice.of(o), []
    net.register_full_backward_hook(lambda m, gi, go: seen.append(("first", values(gi), values(go))))
    net.register_full_backward_hook(lambda m, gi, go: (gi[0] * 10, gi[1]))
    net.register_full_backward_hook(lambda m, gi, go: seen.append(("last", values(gi), values(go))))
    net.register_full_backward_pre_hook(lambda m, go: seen.append(("pre", values(go))))
    net.register_full_backward_pre_hook(lambda m, go: (go[0] + 1, go[1]))
    x, y = o.tensor(X).requires_grad_(), o.tensor(X).requires_grad_()
    a, b = net(x, y)
    (a.sum() + (b * b).sum()).backward()
    return seen, values(x.grad), values(y.grad), values(net.weight.grad)


def backward_hook_of_one_value(o: Any) -> Any:
    net, seen = o.nn.Sequential(o.nn.Tanh(), o.nn.Tanh()), []
    net[1].register_full_backward_hook(lambda m, gi, go: (seen.append((values(gi), values(go))), (gi[0] * 3,))[1])
    net[0].register_full_backward_pre_hook(lambda m, go: (go[0] * 2,))
    x = o.tensor(X).requires_grad_()
    net(x).sum().backward()
    return seen, values(x.grad)


def backward_hook_without_gradients_of_inputs(o: Any) -> Any:
    net, seen = Twice.of(o), []
    net.register_full_backward_hook(lambda m, gi, go: seen.append((gi, values(go))))
    net(o.tensor(X)).sum().backward()
    handle = net.register_full_backward_hook(lambda m, gi, go: seen.append("removed"))
    handle.remove()
    net(o.tensor(X), o.tensor(X))[1].sum().backward()
    return seen, values(net.weight.grad)


def state_hooks(o: Any) -> Any:
    net, seen = o.nn.Sequential(o.nn.Linear(2, 1, bias=False), o.nn.Sequential(o.nn.Linear(1, 1))), []
    net.register_state_dict_pre_hook(lambda m, prefix, keep: seen.append(("pre", prefix, keep)))
    net[1].register_state_dict_post_hook(lambda m, state, prefix, meta: state.update({prefix + "extra": 1}))
    net.register_state_dict_post_hook(lambda m, state, prefix, meta: seen.append(("post", list(state))))
    state = net.state_dict()
    del state["1.extra"]
    state["old.weight"] = state.pop("0.weight")

    def rename(m: Any, state: Any, prefix: str, *rest: Any) -> None:
        seen.append((prefix, rest[1], [list(r) for r in rest[2:]]))
        state[prefix + "0.weight"] = state.pop(prefix + "old.weight")

    def forgive(m: Any, keys: Any) -> None:
        seen.append([list(k) for k in keys])
        keys.unexpected_keys.clear()

    net.register_load_state_dict_pre_hook(rename)
    net[1].register_load_state_dict_post_hook(forgive)
    state["1.nothing"] = state["0.bias"] = state["1.0.bias"]
    state.pop("0.bias")
    seen.append([list(k) for k in net.load_state_dict(state)])
    return seen, list(state)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize(
    "program",
    [
        forward_hooks, hooks_with_kwargs, after_an_error, backward_hooks, backward_hook_of_one_value,
        backward_hook_without_gradients_of_inputs, state_hooks,
    ],
)  # fmt: skip
def test_programs_do_what_they_do_in_pytorch(torch, program):
    assert program(OURS) == program(theirs(torch))


def test_hooks_that_do_nothing_change_no_bit():
    def run(hooked: bool) -> list[Any]:
        dtrain.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        if hooked:
            for module in net.modules():
                module.register_forward_pre_hook(lambda *_: None)
                module.register_forward_hook(lambda *_: None)
                module.register_full_backward_hook(lambda *_: None)
                module.register_full_backward_pre_hook(lambda *_: None)
        x = dtrain.randn(5, 3).requires_grad_()
        y = net(x)
        gx = net.backward(dtrain.ones(5, 2))
        return [y.tolist(), gx.tolist(), *(p.grad.tolist() for p in net.parameters())]

    assert run(False) == run(True)


def note(module: nn.Module, args: Any, output: Any) -> None:
    module.calls = getattr(module, "calls", 0) + 1


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_have_hooks_of_their_own(twin_of):
    net = nn.Linear(2, 1)
    handle = net.register_forward_hook(note)
    twin = twin_of(net)
    handle.remove()
    for module in (net, twin, twin):
        module(dtrain.ones(1, 2))
    assert (hasattr(net, "calls"), twin.calls) == (False, 2)


def test_errors():
    net = Twice.of(OURS)
    handle = net.register_forward_pre_hook(lambda m, args, kwargs: 3, with_kwargs=True)
    with pytest.raises(RuntimeError, match=r"returns None or \(args, kwargs\), this one int"):
        net(OURS.tensor(X))
    handle.remove()
    net.register_full_backward_hook(lambda m, gi, go: (gi[0], gi[0]))
    y = net(OURS.tensor(X).requires_grad_())
    with pytest.raises(RuntimeError, match="was given 1 gradients and has returned 2"):
        y.sum().backward()


def test_hooks_of_the_wrapper_and_of_what_is_in_it():
    """Under DistributedDataParallel a module's hooks are called for each microbatch."""
    dtrain.manual_seed(0)
    net, calls = nn.Linear(3, 1), []
    net.register_forward_hook(lambda m, args, output: calls.append(len(args[0])))
    net.register_full_backward_hook(lambda m, gi, go: calls.append(go[0].shape))
    model = dtrain.DistributedDataParallel(net, microbatches=2)
    for n in (2, 3):
        model(dtrain.ones(n, 3)).sum().backward()
    assert calls == [2, (2, 1), 3, (3, 1)]
    assert model.synchronized
