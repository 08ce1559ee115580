"""Every optimizer beside PyTorch's, over flat buffers and parameter by parameter; groups, state, errors."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import nn, optim
from dtrain.autograd import Tensor

SHAPES = [(3, 4), (4,), (), (2, 1, 3)]
STEPS = 10


def combinations(name: str, **choices: list[Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, dict(zip(choices, values, strict=True))) for values in itertools.product(*choices.values())]


def allowed(case: tuple[str, dict[str, Any]]) -> bool:
    _, o = case
    return not o.get("nesterov") or o["momentum"] > 0 and o["dampening"] == 0


CASES = [
    *filter(allowed, combinations(
        "SGD", lr=[0.1], momentum=[0.0, 0.9], dampening=[0.0, 0.3], weight_decay=[0.0, 0.02], nesterov=[False, True],
        maximize=[False, True])),
    *combinations("Adam", lr=[0.05], betas=[(0.9, 0.999), (0.5, 0.7)], weight_decay=[0.0, 0.02], amsgrad=[False, True],
                  maximize=[False, True]),
    *combinations("AdamW", lr=[0.05], eps=[1e-8, 1e-2], weight_decay=[0.01, 0.3], amsgrad=[False, True],
        maximize=[False, True]),
    *combinations("RMSprop", lr=[0.05], alpha=[0.9], weight_decay=[0.0, 0.02], momentum=[0.0, 0.8],
        centered=[False, True],
                  maximize=[False, True]),
    ("SGD", {}), ("Adam", {}), ("AdamW", {}), ("RMSprop", {}),
]  # fmt: skip
IDS = [f"{name}({','.join(f'{k}={v}' for k, v in o.items())})" for name, o in CASES]
ONE_OF_EACH = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.01}),
    ("Adam", {"lr": 0.05, "amsgrad": True}),
    ("AdamW", {"lr": 0.05}),
    ("RMSprop", {"lr": 0.05, "momentum": 0.5, "centered": True}),
]


def parameters(make: Any, parameter: Any) -> list[Any]:
    rng = np.random.default_rng(0)
    return [parameter(make(np.array(rng.standard_normal(s)))) for s in SHAPES]


def gradients(step: int) -> list[np.ndarray]:
    rng = np.random.default_rng(100 + step)
    return [np.array(rng.standard_normal(s)) for s in SHAPES]


def assert_close(ours: list[Any], theirs: list[Any], rtol: float = 1e-9) -> None:
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.array, q.detach().numpy(), rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_steps_are_pytorchs(torch, name, options, flat):
    """flat: gradients where backward puts them. Otherwise they are assigned by hand, and some are missing."""
    ours, theirs = parameters(Tensor, nn.Parameter), parameters(torch.from_numpy, torch.nn.Parameter)
    a, b = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    for step in range(STEPS):
        a.zero_grad()
        b.zero_grad()
        for i, g in enumerate(gradients(step)):
            if flat:
                ours[i].receive(g)
            elif (step + i) % 3:
                ours[i].grad = Tensor(g.copy())
            if flat or (step + i) % 3:
                theirs[i].grad = torch.from_numpy(g.copy())
        a.step()
        b.step()
        assert_close(ours, theirs)


def train(optimizer: Any, params: list[Any], steps: range, missing: bool = False, assigned: bool = False) -> None:
    for step in steps:
        optimizer.zero_grad()
        for i, (p, g) in enumerate(zip(params, gradients(step), strict=True)):
            if missing and (step + i) % 3 == 0:
                continue
            if assigned:
                p.grad = Tensor(g)
            else:
                p.receive(g)
        optimizer.step()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_flat_path_gives_the_bytes_of_the_other(name, options, dtype):
    made = []
    for assigned in (False, True):
        params = [nn.Parameter(p.to(dtype).detach()) for p in parameters(Tensor, nn.Parameter)]
        optimizer = getattr(optim, name)(params, **options)
        train(optimizer, params, range(STEPS), assigned=assigned)
        made.append([p.array.tobytes() for p in params])
    assert made[0] == made[1]


@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_chunks_do_not_change_the_result(monkeypatch, name, options):
    made = []
    for chunk in (1 << 15, 8):
        monkeypatch.setattr("dtrain.backend.reference.elementwise._CHUNK_ELEMENTS", chunk)
        params = parameters(Tensor, nn.Parameter)
        train(getattr(optim, name)(params, **options), params, range(5))
        made.append([p.array for p in params])
    for x, y in zip(*made, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("carry", [lambda s: s, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_resumed_run_has_the_bytes_of_an_undisturbed_one(name, options, carry, missing):
    whole = parameters(Tensor, nn.Parameter)
    optimizer = getattr(optim, name)(whole, **options)
    train(optimizer, whole, range(8), missing)
    first = parameters(Tensor, nn.Parameter)
    optimizer = getattr(optim, name)(first, **options)
    train(optimizer, first, range(4), missing)
    state = carry(optimizer.state_dict())
    second = [nn.Parameter(p.detach().clone()) for p in first]
    train(optimizer, first, range(4, 6), missing)  # the state dict is a copy: going on does not change it
    resumed = getattr(optim, name)(second, lr=123.0)
    resumed.load_state_dict(state)
    train(resumed, second, range(4, 8), missing)
    assert [p.array.tobytes() for p in second] == [p.array.tobytes() for p in whole]


@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_state_dict_is_pytorchs_and_loads_it(torch, name, options):
    ours, theirs = parameters(Tensor, nn.Parameter), parameters(torch.from_numpy, torch.nn.Parameter)
    a, b = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    for step in range(3):
        for p, q, g in zip(ours[:3], theirs[:3], gradients(step), strict=False):
            p.grad, q.grad = Tensor(g.copy()), torch.from_numpy(g.copy())
        a.step()
        b.step()
    mine, other = a.state_dict(), b.state_dict()
    assert mine["state"].keys() == other["state"].keys() or options == {"lr": 0.1}  # plain SGD: PyTorch keeps nothing
    for i, state in other["state"].items():
        assert {k: tuple(v.shape) for k, v in state.items() if k != "step" and v is not None} == {
            k: v.shape for k, v in mine["state"][i].items() if k != "step"
        }
    assert set(mine["param_groups"][0]) <= set(other["param_groups"][0])
    assert mine["param_groups"][0]["params"] == other["param_groups"][0]["params"]
    # A checkpoint of PyTorch, its tensors made arrays, goes on where PyTorch would.
    foreign = copy.deepcopy(other)
    foreign["state"] = {
        i: {k: v if k == "step" or v is None else v.numpy() for k, v in s.items()} for i, s in foreign["state"].items()
    }
    fresh = [nn.Parameter(p.detach().clone()) for p in ours]
    c = getattr(optim, name)(fresh, **options)
    c.load_state_dict(foreign)
    for p, q, g in zip(fresh, theirs, gradients(9), strict=True):
        p.grad, q.grad = Tensor(g.copy()), torch.from_numpy(g.copy())
    c.step()
    b.step()
    assert_close(fresh, theirs)


def test_groups_have_their_own_options(torch):
    def groups(params: list[Any]) -> list[dict[str, Any]]:
        return [{"params": params[:2], "lr": 0.5}, {"params": iter(params[2:3]), "momentum": 0.0, "weight_decay": 0.1}]

    ours, theirs = parameters(Tensor, nn.Parameter), parameters(torch.from_numpy, torch.nn.Parameter)
    a = optim.SGD(groups(ours), lr=0.1, momentum=0.9)
    b = torch.optim.SGD(groups(theirs), lr=0.1, momentum=0.9)
    for step in range(6):
        if step == 2:
            a.add_param_group({"params": ours[3], "lr": 0.01})
            b.add_param_group({"params": theirs[3], "lr": 0.01})
        if step == 4:
            for optimizer in (a, b):
                optimizer.param_groups[0]["lr"] /= 10
        for p, q, g in zip(ours, theirs, gradients(step), strict=True):
            p.grad, q.grad = Tensor(g.copy()), torch.from_numpy(g.copy())
        a.step()
        b.step()
        assert_close(ours, theirs)
    assert [g["lr"] for g in a.param_groups] == [0.05, 0.1, 0.01]
    saved = a.state_dict()
    assert [g["params"] for g in saved["param_groups"]] == [[0, 1], [2], [3]]


@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_frozen_parameters_stay(name, options):
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    net[0].requires_grad_(False)
    frozen = net[0].weight.array.copy()
    optimizer = getattr(optim, name)(net.parameters(), **options)
    before = net[1].weight.array.copy()
    for _ in range(3):
        net.zero_grad()
        net(dtrain.ones(2, 3)).sum().backward()
        optimizer.step()
    np.testing.assert_array_equal(net[0].weight.array, frozen)
    assert (net[1].weight.array != before).all()
    assert len(optimizer.state_dict()["state"]) == 2
    net[0].requires_grad_()
    net(dtrain.ones(2, 3)).sum().backward()
    optimizer.step()
    assert (net[0].weight.array != frozen).any()


def test_step_without_any_gradient_changes_nothing():
    p = nn.Parameter(dtrain.ones(2))
    optimizer = optim.SGD([p], lr=0.1, weight_decay=1.0, momentum=0.9)
    assert optimizer.step() is None
    assert (p.tolist(), optimizer.state_dict()["state"]) == ([1, 1], {})
    p.grad = dtrain.zeros(2)
    optimizer.zero_grad(set_to_none=False)
    assert p.grad.tolist() == [0, 0]
    optimizer.step()
    assert p.tolist() == pytest.approx([0.9, 0.9])


def test_closure_is_called_with_gradients_on():
    p = nn.Parameter(dtrain.tensor([2.0]))
    optimizer = optim.SGD([p], lr=0.25)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with dtrain.no_grad():
        assert optimizer.step(closure).item() == 4
    assert p.item() == 1


def test_shared_parameters_and_models_in_two_dtypes():
    shared = nn.Linear(2, 2)
    net = nn.Sequential(shared, shared, nn.Linear(2, 1).double())
    optimizer = optim.Adam(net.parameters(), lr=0.1)
    for _ in range(2):
        y = net[1](net[0](dtrain.ones(1, 2))).double()
        net[2](y).sum().backward()
        optimizer.step()
    assert [s["step"] for s in optimizer.state_dict()["state"].values()] == [2] * 4
    assert optimizer.state[shared.weight]["exp_avg"].dtype == np.float32
    assert optimizer.state[net[2].weight]["exp_avg"].dtype == np.float64


def test_conversion_between_steps_keeps_the_state():
    net = nn.Linear(2, 2)
    optimizer = optim.SGD(net.parameters(), lr=0.0, momentum=0.5)
    net(dtrain.ones(1, 2)).sum().backward()
    optimizer.step()
    net.double()
    net(dtrain.ones(1, 2, dtype=dtrain.float64)).sum().backward()
    optimizer.step()
    assert optimizer.state[net.bias]["momentum_buffer"].tolist() == [1.5, 1.5]
    assert optimizer.state[net.bias]["momentum_buffer"].dtype == np.float64


def test_learning_goes_down():
    dtrain.manual_seed(0)
    x = dtrain.randn(64, 4)
    y = x @ dtrain.tensor([[1.0], [2.0], [-1.0], [0.5]])
    for name, options in ONE_OF_EACH:
        net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
        optimizer = getattr(optim, name)(net.parameters(), **options)
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(net(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.2 * losses[0], name


P = nn.Parameter(dtrain.ones(2))
ERRORS = [
    (lambda: optim.SGD([], lr=0.1), ValueError, "empty list"),
    (lambda: optim.SGD(P, lr=0.1), TypeError, r"pass \[tensor\]"),
    (lambda: optim.SGD([P, P], lr=0.1), ValueError, r"shape \(2,\) is given twice"),
    (lambda: optim.SGD([{"params": [P]}, {"params": [P]}], lr=0.1), ValueError, "given twice"),
    (lambda: optim.SGD([P * 2], lr=0.1), ValueError, "trains parameters"),
    (lambda: optim.SGD([1.0], lr=0.1), ValueError, "got float"),
    (lambda: optim.SGD([P], lr=-0.1), ValueError, "lr must be at least 0, got -0.1"),
    (lambda: optim.SGD([P], lr=float("nan")), ValueError, "got nan"),
    (lambda: optim.SGD([P], lr=0.1, nesterov=True), ValueError, "nesterov needs momentum > 0"),
    (lambda: optim.Adam([P], betas=(0.9, 1.0)), ValueError, r"betas .* \(0.9, 1.0\)"),
    (lambda: optim.AdamW([P], eps=-1.0), ValueError, "eps must be at least 0"),
    (lambda: optim.RMSprop([P], alpha=-1.0), ValueError, "alpha must be at least 0"),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_state_of_another_optimizer_is_refused_and_nothing_changes():
    ours, other = parameters(Tensor, nn.Parameter), parameters(Tensor, nn.Parameter)
    a, b = optim.Adam(ours, lr=0.1), optim.Adam(other[:2], lr=0.2)
    train(a, ours, range(2))
    before = a.state_dict()
    with pytest.raises(ValueError, match=r"groups of \[2\] parameters, this one of \[4\]"):
        a.load_state_dict(b.state_dict())
    c = optim.Adam(other[::-1], lr=0.2)
    train(c, other, range(1))
    with pytest.raises(ValueError, match=r"state 'exp_avg' of parameter 0 has shape \(2, 1, 3\)"):
        a.load_state_dict(c.state_dict())
    after = a.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for i, state in before["state"].items():
        assert state["step"] == after["state"][i]["step"]
        np.testing.assert_array_equal(state["exp_avg"].array, after["state"][i]["exp_avg"].array)


def test_momentum_that_is_switched_on_later() -> None:
    p = dtrain.nn.Parameter(dtrain.ones(2))
    optimizer = dtrain.optim.SGD([p], lr=0.1)
    for step in range(3):
        p.grad = dtrain.ones(2)
        optimizer.step()
        optimizer.param_groups[0]["momentum"] = 0.5 * (step + 1 > 0)
    assert p.tolist() == pytest.approx([1 - 0.1 - 0.1 - 0.15] * 2)
