"""Averaged weights beside PyTorch's, under DistributedDataParallel, and statistics of averaged models."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import nn, optim
from dtrain.comm.threads import run_ranks
from dtrain.optim import swa_utils

FUNCTIONS: dict[str, Any] = {
    "default": lambda u: {},
    "ema": lambda u: {"multi_avg_fn": u.get_ema_multi_avg_fn(0.9)},
    "ema-one": lambda u: {"avg_fn": u.get_ema_avg_fn(0.9)},
    "swa": lambda u: {"multi_avg_fn": u.get_swa_multi_avg_fn()},
    "swa-one": lambda u: {"avg_fn": u.get_swa_avg_fn()},
    "own": lambda u: {"avg_fn": lambda average, value, number: 0.3 * average + value / (number + 1)},
}


def net_of(library: Any) -> Any:
    return library.nn.Sequential(library.nn.Linear(3, 4), library.nn.BatchNorm1d(4), library.nn.Linear(4, 2)).double()


def batches(steps: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.standard_normal((8, 3)) for _ in range(steps)]


def train(library: Any, net: Any, each: Any, steps: int = 6) -> None:
    optimizer = library.optim.SGD(net.parameters(), lr=0.1)
    for x in batches(steps):
        optimizer.zero_grad()
        (net(library.tensor(x)) ** 2).mean().backward()
        optimizer.step()
        each()


@pytest.mark.parametrize(  # PyTorch averages whole numbers, too, and raises where it takes lists of them
    ("name", "use_buffers"), [*((name, False) for name in FUNCTIONS), ("ema", True), ("swa-one", True), ("own", True)]
)
def test_averages_and_statistics_are_pytorchs(torch: Any, name: str, use_buffers: bool) -> None:
    dtrain.manual_seed(0)
    here, there = net_of(dtrain), net_of(torch)
    there.load_state_dict({k: torch.from_numpy(np.array(v.detach())) for k, v in here.state_dict().items()})
    here.load_state_dict({k: v.numpy().copy() for k, v in there.state_dict().items()})
    states = []
    for library, net in ((dtrain, here), (torch, there)):
        utils = library.optim.swa_utils
        average = utils.AveragedModel(net, use_buffers=use_buffers, **FUNCTIONS[name](utils))
        train(library, net, lambda average=average, net=net: average.update_parameters(net))
        states.append(average.state_dict())
        utils.update_bn([[library.tensor(x)] for x in batches(3)], average)
        assert average.training and average.module[1].momentum == 0.1
        states[-1] = {**states[-1], **{f"bn.{k}": v for k, v in average.state_dict().items()}}
    assert list(states[0]) == list(states[1])
    for key, value in states[1].items():
        if use_buffers and "num_batches" in key:
            continue
        np.testing.assert_allclose(states[0][key].array, value.detach().numpy(), 1e-6, 1e-12, err_msg=key)


def test_average_is_a_model_of_its_own() -> None:
    net = net_of(dtrain)
    average = swa_utils.AveragedModel(net, device="cpu")
    train(dtrain, net, lambda: average.update_parameters(net), 1)
    before = average.module[0].weight.tolist()
    assert before == net[0].weight.tolist()
    train(dtrain, net, lambda: None, 1)
    assert average.module[0].weight.tolist() == before
    x = dtrain.tensor(batches(1)[0])
    assert average.eval()(x).tolist() == average.module(x).tolist()
    assert average.n_averaged.item() == 1


def test_same_bits_on_any_number_of_ranks() -> None:
    def run(comm: Any) -> list[Any]:
        dtrain.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        model = dtrain.DistributedDataParallel(net, comm, 4)
        optimizer = optim.AdamW(model.parameters(), lr=0.1)
        average = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.7), use_buffers=True)
        for x in batches(4):
            for j in model.block:
                (model(dtrain.tensor(x[2 * j : 2 * j + 2].astype("f"))) ** 2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            average.update_parameters(model)
        swa_utils.update_bn([dtrain.tensor(x.astype("f")) for x in batches(2)], average)
        return [v.tolist() for v in average.state_dict().values()]

    (expected,) = run_ranks(1, run)
    assert run_ranks(2, run) == [expected] * 2
    assert run_ranks(4, run) == [expected] * 4


@pytest.mark.parametrize(
    "options",
    [{"swa_lr": 0.05}, {"swa_lr": [0.01, 0.5], "anneal_epochs": 4, "anneal_strategy": "linear"},
     {"swa_lr": 0.05, "anneal_epochs": 0}, {"swa_lr": 0.05, "anneal_epochs": 1}],
)  # fmt: skip
def test_schedule_is_pytorchs(torch: Any, options: dict[str, Any]) -> None:
    found: list[list[Any]] = []
    for library in (dtrain, torch):
        params = [library.nn.Parameter(library.ones(2)) for _ in range(2)]
        optimizer = library.optim.SGD([{"params": params[:1]}, {"params": params[1:], "lr": 0.02}], lr=0.1)
        first = library.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        schedule = library.optim.swa_utils.SWALR(optimizer, **options)
        found.append([])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for step in range(16):
                optimizer.step()
                (first if step < 3 else schedule).step()
                found[-1].append([g["lr"] for g in optimizer.param_groups])
    for ours, theirs in zip(*found, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)


def test_a_model_without_batch_norm_is_left_alone() -> None:
    swa_utils.update_bn(iter([None]), nn.Linear(2, 2))


def test_public_names(torch: Any) -> None:
    assert set(swa_utils.__all__) == set(torch.optim.swa_utils.__all__)


def test_errors() -> None:
    class Loader(list[Any]):
        comm: Any

    u, net = swa_utils, nn.Linear(2, 2)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    loader = Loader()
    loader.comm = type("Comm", (), {"size": 2})
    for make, message in (
        (lambda: u.get_ema_multi_avg_fn(1.5), r"decay must be in \[0, 1\], got 1.5"),
        (lambda: u.get_ema_avg_fn(-1), "got -1"),
        (lambda: u.AveragedModel(net, avg_fn=max, multi_avg_fn=max), "pass one of them"),
        (lambda: u.AveragedModel(net).update_parameters(nn.Linear(2, 3)), r"\(3, 2\)"),
        (lambda: u.update_bn(loader, nn.BatchNorm1d(2)), "each of 2 ranks batches of its own"),
        (lambda: u.SWALR(optimizer, 0.1, anneal_strategy="exp"), "'exp'"),
        (lambda: u.SWALR(optimizer, 0.1, anneal_epochs=-1), "got -1"),
        (lambda: u.SWALR(optimizer, [0.1, 0.2]), "one for each of the 1 groups, got 2"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            make()
