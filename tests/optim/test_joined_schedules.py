"""Schedules made of schedules, ReduceLROnPlateau, states of PyTorch's, and errors."""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import dtrain
from dtrain import nn, optim
from dtrain.optim import lr_scheduler

MADE: dict[str, Callable[[Any, Any], Any]] = {
    "warm-up": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, total_iters=5), s.CosineAnnealingLR(o, 20)], milestones=[5]
    ),
    "three": lambda s, o: s.SequentialLR(
        o, [s.ConstantLR(o, 0.5, 3), s.ExponentialLR(o, 0.9), s.CosineAnnealingWarmRestarts(o, 4, 2)], milestones=[4, 9]
    ),
    "chained": lambda s, o: s.ChainedScheduler(
        [s.LinearLR(o, 0.2, total_iters=6), s.StepLR(o, 4), s.ExponentialLR(o, 0.95)]
    ),
    "chained-cosine": lambda s, o: s.ChainedScheduler([s.ConstantLR(o, 0.1, 4), s.CosineAnnealingLR(o, 7, 0.001)], o),
    "chained-functions": lambda s, o: s.ChainedScheduler(
        [s.MultiplicativeLR(o, lambda t: 0.9), s.PolynomialLR(o, 30, 2.0), s.MultiStepLR(o, [3, 8])]
    ),
    "nested": lambda s, o: s.SequentialLR(
        o,
        [
            s.SequentialLR(o, [s.ConstantLR(o, 0.3, 2), s.LinearLR(o, 0.5, total_iters=3)], milestones=[2]),
            s.ExponentialLR(o, 0.8),
        ],
        milestones=[8],
    ),
    "chained-first": lambda s, o: s.SequentialLR(
        o, [s.ChainedScheduler([s.LinearLR(o, 0.5), s.StepLR(o, 3)]), s.StepLR(o, 2, 0.5)], milestones=[6]
    ),
    "plateau": lambda s, o: s.ReduceLROnPlateau(o, patience=1, factor=0.5),
    "plateau-max": lambda s, o: s.ReduceLROnPlateau(
        o, "max", 0.3, 0, 0.05, "abs", cooldown=2, min_lr=[0.001, 0.002]
    ),
    "plateau-max-rel": lambda s, o: s.ReduceLROnPlateau(o, "max", 0.3, 2, 0.1),
    "plateau-min-abs": lambda s, o: s.ReduceLROnPlateau(o, "min", 0.3, 1, 0.1, "abs", min_lr=0.004),
}  # fmt: skip
METRICS = [1.0, 0.9, 0.95, 0.96, 0.5, 0.5, 0.5, 0.49, 0.6, 0.7, 0.3, 0.2, 0.21, 0.22, 0.23, 0.5, 0.1, 0.9, 0.8, 0.7]


def optimizer_of(library: Any) -> Any:
    params = [library.nn.Parameter(library.ones(2)) for _ in range(2)]
    return library.optim.SGD([{"params": params[:1]}, {"params": params[1:], "lr": 0.02}], lr=0.1, momentum=0.9)


def advance(optimizer: Any, schedule: Any, steps: range) -> list[Any]:
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in steps:
            optimizer.step()
            schedule.step(METRICS[step]) if "Plateau" in type(schedule).__name__ else schedule.step()
            rates.append([group["lr"] for group in optimizer.param_groups])
            assert schedule.get_last_lr() == rates[-1]
    return rates


@pytest.mark.parametrize("name", MADE)
def test_twenty_steps_are_pytorchs(torch: Any, name: str) -> None:
    found = []
    for library in (dtrain, torch):
        optimizer = optimizer_of(library)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schedule = MADE[name](library.optim.lr_scheduler, optimizer)
        first = [group["lr"] for group in optimizer.param_groups]
        found.append([first, *advance(optimizer, schedule, range(20))])
    for step, (ours, theirs) in enumerate(zip(*found, strict=True)):
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-14), step


@pytest.mark.parametrize("name", MADE)
def test_resumed(name: str) -> None:
    a, b = optimizer_of(dtrain), optimizer_of(dtrain)
    whole = MADE[name](lr_scheduler, a)
    expected = advance(a, whole, range(20))
    first = MADE[name](lr_scheduler, b)
    advance(b, first, range(8))
    states = b.state_dict(), pickle.loads(pickle.dumps(first.state_dict()))
    c = optimizer_of(dtrain)
    resumed = MADE[name](lr_scheduler, c)
    c.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    assert advance(c, resumed, range(8, 20)) == expected[8:]


@pytest.mark.parametrize("last_epoch", [0, 3])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("StepLR", {"step_size": 4}), ("MultiStepLR", {"milestones": [4, 6]}), ("ExponentialLR", {"gamma": 0.9}),
        ("LinearLR", {}), ("PolynomialLR", {"total_iters": 9}), ("CosineAnnealingLR", {"T_max": 6}),
        ("ConstantLR", {"total_iters": 4}), ("LambdaLR", {"lr_lambda": lambda t: 0.9**t}),
        ("MultiplicativeLR", {"lr_lambda": lambda t: 0.9}), ("CosineAnnealingWarmRestarts", {"T_0": 3}),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.3, "step_size_up": 3, "cycle_momentum": False}),
    ],
)  # fmt: skip
def test_going_on_from_an_epoch_is_pytorchs(torch: Any, name: str, options: dict[str, Any], last_epoch: int) -> None:
    found = []
    for library in (dtrain, torch):
        optimizer = optimizer_of(library)
        for group in optimizer.param_groups:
            group["initial_lr"] = 2 * group["lr"]
        schedule = getattr(library.optim.lr_scheduler, name)(optimizer, **options, last_epoch=last_epoch)
        first = [group["lr"] for group in optimizer.param_groups]
        found.append([first, *advance(optimizer, schedule, range(5))])
    for ours, theirs in zip(*found, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("epochs", [[3, 7, 2.5, 30], [0, 12]])
def test_going_to_an_epoch_is_pytorchs(torch: Any, epochs: list[float]) -> None:
    for name, options in (
        ("CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 2}), ("CosineAnnealingWarmRestarts", {"T_0": 4}),
        ("StepLR", {"step_size": 4}), ("CosineAnnealingLR", {"T_max": 9}),
    ):  # fmt: skip
        found: list[list[float]] = []
        for library in (dtrain, torch):
            optimizer = optimizer_of(library)
            schedule = getattr(library.optim.lr_scheduler, name)(optimizer, **options)
            found.append([])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for epoch in epochs:
                    optimizer.step()
                    schedule.step(epoch)
                    found[-1] += schedule.get_last_lr()
        assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_state_of_pytorchs_schedule_is_taken(torch: Any) -> None:
    for name in ("warm-up", "plateau", "chained"):
        theirs, ours = optimizer_of(torch), optimizer_of(dtrain)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            there = MADE[name](torch.optim.lr_scheduler, theirs)
        advance(theirs, there, range(7))
        here = MADE[name](lr_scheduler, ours)
        ours.load_state_dict(theirs.state_dict())
        here.load_state_dict(there.state_dict())
        expected = advance(theirs, there, range(7, 20))
        for a, b in zip(advance(ours, here, range(7, 20)), expected, strict=True):
            assert a == pytest.approx(b, rel=1e-9, abs=1e-14)


class Decay:
    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, t: int) -> float:
        return self.rate**t


def test_attributes_of_objects_that_are_called_are_saved() -> None:
    optimizer = optimizer_of(dtrain)
    schedule = lr_scheduler.LambdaLR(optimizer, [Decay(0.5), lambda t: 1.0])
    state = schedule.state_dict()
    assert state["lr_lambdas"] == [{"rate": 0.5}, None]
    other = lr_scheduler.LambdaLR(optimizer_of(dtrain), [Decay(0.1), lambda t: 1.0])
    other.load_state_dict(state)
    assert other.lr_lambdas[0].rate == 0.5


def test_a_tensor_stays_one(torch: Any) -> None:
    optimizer = optim.SGD([nn.Parameter(dtrain.ones(2))], lr=dtrain.tensor(0.5))
    lr = optimizer.param_groups[0]["lr"]
    schedule = lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] is lr and lr.item() == 0.25
    assert schedule.get_last_lr() == [0.25]


def test_a_factor_of_zero_ends() -> None:
    optimizer = optimizer_of(dtrain)
    schedule = lr_scheduler.ConstantLR(optimizer, 0.0, total_iters=2)
    assert [r[0] for r in advance(optimizer, schedule, range(3))] == [0.0, 0.1, 0.1]


def test_a_step_before_the_optimizers_is_warned_about() -> None:
    schedule = lr_scheduler.StepLR(optimizer_of(dtrain), 3)
    with pytest.warns(UserWarning, match=r"call optimizer\.step\(\) first"):
        schedule.step()


def test_new_groups_need_min_lrs() -> None:
    for min_lr, works in ((0.0, True), ([0.0, 0.0], False)):
        optimizer = optimizer_of(dtrain)
        schedule = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, min_lr=min_lr)
        optimizer.add_param_group({"params": [nn.Parameter(dtrain.ones(1))]})
        schedule.step(1.0)
        if works:
            schedule.step(dtrain.tensor(2.0))
            assert optimizer.param_groups[2]["lr"] == pytest.approx(0.01)
        else:
            with pytest.raises(RuntimeError, match="3 groups, and there are 2 min_lrs"):
                schedule.step(math.inf)


def test_errors() -> None:
    s, o = lr_scheduler, optimizer_of(dtrain)
    plateau = s.ReduceLROnPlateau(o)
    for make, error, message in (
        (lambda: s.StepLR(3, 2), TypeError, "got int"),
        (lambda: s.StepLR(optimizer_of(dtrain), 2, last_epoch=3), KeyError, "no 'initial_lr'"),
        (lambda: s.LambdaLR(o, [lambda t: 1.0]), ValueError, "one for each of the 2 groups, got 1"),
        (lambda: s.ConstantLR(o, 2.0), ValueError, r"factor must be in \[0, 1\], got 2.0"),
        (lambda: s.PolynomialLR(o, 0), ValueError, "total_iters must be at least 1"),
        (lambda: s.CosineAnnealingWarmRestarts(o, 0), ValueError, "whole numbers from 1 on, got 0 and 1"),
        (lambda: s.CosineAnnealingWarmRestarts(o, 2, eta_min="0"), ValueError, "eta_min must be a number"),
        (lambda: s.CosineAnnealingWarmRestarts(o, 2).step(-1), ValueError, "epoch must be at least 0"),
        (lambda: s.CyclicLR(o, 0.1, 0.2, mode="square"), ValueError, "'square'"),
        (lambda: s.ReduceLROnPlateau(o, factor=1.0), ValueError, "factor must be below 1"),
        (lambda: s.ReduceLROnPlateau(o, "less"), ValueError, "'less'"),
        (lambda: s.ReduceLROnPlateau(o, threshold_mode="less"), ValueError, "'less'"),
        (lambda: s.ChainedScheduler([]), ValueError, "at least one schedule, got none"),
        (lambda: s.ChainedScheduler([s.StepLR(o, 1), plateau]), ValueError, "cannot step ReduceLROnPlateau"),
        (lambda: s.ChainedScheduler([s.StepLR(o, 1), 3]), TypeError, "got int at 1"),
        (lambda: s.SequentialLR(o, [s.StepLR(optimizer_of(dtrain), 1)], []), ValueError, "another one"),
        (lambda: s.SequentialLR(o, [s.StepLR(o, 1)], [3]), ValueError, "1 schedules need 0 milestones"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            make()
