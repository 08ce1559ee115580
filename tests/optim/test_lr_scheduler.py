"""Learning-rate schedules beside PyTorch's, and resumed."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

import dtrain
from dtrain import nn, optim
from dtrain.optim import lr_scheduler

SCHEDULES: list[tuple[str, dict[str, Any]]] = [
    ("StepLR", {"step_size": 7, "gamma": 0.3}),
    ("StepLR", {"step_size": 1}),
    ("CosineAnnealingLR", {"T_max": 29}),
    ("CosineAnnealingLR", {"T_max": 10, "eta_min": 0.01}),
    ("LinearLR", {}),
    ("LinearLR", {"start_factor": 0.1, "end_factor": 0.5, "total_iters": 20}),
    ("LinearLR", {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 40}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 31}),
    ("OneCycleLR", {"max_lr": [0.5, 0.2], "epochs": 4, "steps_per_epoch": 8, "anneal_strategy": "linear",
        "pct_start": 0.4}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 40, "three_phase": True, "cycle_momentum": False}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 33, "three_phase": True, "base_momentum": 0.8, "max_momentum": 0.9,
        "div_factor": 10.0, "final_div_factor": 100.0}),
    ("MultiStepLR", {"milestones": [3, 11, 11, 20]}),
    ("ConstantLR", {}),
    ("ConstantLR", {"factor": 0.4, "total_iters": 9}),
    ("ExponentialLR", {"gamma": 0.9}),
    ("PolynomialLR", {"total_iters": 20, "power": 1.5}),
    ("PolynomialLR", {"total_iters": 5}),
    ("LambdaLR", {"lr_lambda": [lambda t: 0.9**t, lambda t: 1 / (1 + t)]}),
    ("MultiplicativeLR", {"lr_lambda": lambda t: 0.95}),
    ("CosineAnnealingWarmRestarts", {"T_0": 4}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 2, "eta_min": 0.001}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 4}),
    ("CyclicLR", {"base_lr": [0.01, 0.02], "max_lr": 0.2, "step_size_up": 3, "step_size_down": 5,
        "mode": "triangular2"}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 4, "mode": "exp_range", "gamma": 0.97,
        "base_momentum": [0.7, 0.75], "max_momentum": 0.93}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 4, "scale_fn": lambda x: 0.9**x,
        "scale_mode": "iterations", "cycle_momentum": False}),
]  # fmt: skip
IDS = [f"{n}({','.join(f'{k}={v}' for k, v in o.items())})" for n, o in SCHEDULES]


def make(optim_module: Any, parameters: list[Any], kind: str, name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    groups = [{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.02}]
    extra = {"momentum": 0.9} if kind == "SGD" else {}
    optimizer = getattr(optim_module, kind)(groups, lr=0.1, **extra)
    return optimizer, getattr(optim_module.lr_scheduler, name)(optimizer, **options)


def ours(kind: str, name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    return make(optim, [nn.Parameter(dtrain.ones(2)) for _ in range(2)], kind, name, options)


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
@pytest.mark.parametrize(("name", "options"), SCHEDULES, ids=IDS)
def test_thirty_steps_are_pytorchs(torch, name, options, kind):
    a, schedule = ours(kind, name, options)
    theirs = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    b, their_schedule = make(torch.optim, theirs, kind, name, options)
    for _ in range(31):
        for group, other in zip(a.param_groups, b.param_groups, strict=True):
            for option in {"lr", "momentum", "betas"} & set(group):
                assert group[option] == pytest.approx(other[option], rel=1e-9, abs=1e-15)
        assert schedule.get_last_lr() == pytest.approx(their_schedule.get_last_lr(), rel=1e-9, abs=1e-15)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            a.step(), b.step()
            if schedule.last_epoch + 1 < options.get("total_steps", 1000):
                schedule.step(), their_schedule.step()


@pytest.mark.parametrize(("name", "options"), SCHEDULES, ids=IDS)
def test_resumed_schedule_goes_on(name, options):
    a, whole = ours("SGD", name, options)
    b, first = ours("SGD", name, options)
    for _ in range(5):
        a.step(), whole.step(), b.step(), first.step()
    c, resumed = ours("SGD", name, options)
    c.load_state_dict(b.state_dict())
    resumed.load_state_dict(first.state_dict())
    for _ in range(10):
        a.step(), whole.step(), c.step(), resumed.step()
        assert [g["lr"] for g in c.param_groups] == [g["lr"] for g in a.param_groups]
    assert resumed.last_epoch == 15
    assert "optimizer" not in resumed.state_dict()


def test_public_names():
    joined = {"ChainedScheduler", "LRScheduler", "ReduceLROnPlateau", "SequentialLR"}
    assert {name for name, _ in SCHEDULES} == set(lr_scheduler.__all__) - joined


def test_public_names_are_pytorchs(torch: Any) -> None:
    assert set(lr_scheduler.__all__) == set(torch.optim.lr_scheduler.__all__)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("StepLR", {"step_size": 0}, "step_size must be at least 1"),
        ("CosineAnnealingLR", {"T_max": 0}, "T_max must be at least 1"),
        ("LinearLR", {"start_factor": 0.0}, "start_factor must be in"),
        ("OneCycleLR", {"max_lr": 0.1}, "needs total_steps"),
        ("OneCycleLR", {"max_lr": 0.1, "total_steps": 5, "anneal_strategy": "log"}, "'log'"),
        ("OneCycleLR", {"max_lr": [0.1], "total_steps": 5}, "one for each of the 2 groups, got 1"),
        ("OneCycleLR", {"max_lr": 0.1, "total_steps": 0}, "needs total_steps|at least 1"),
        ("LinearLR", {"total_iters": 0}, "total_iters must be at least 1"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        ours("SGD", name, options)


@pytest.mark.parametrize("options", [{}, {"anneal_strategy": "linear", "three_phase": True}])
def test_one_cycle_ends_where_pytorchs_does(torch: Any, options: dict[str, Any]) -> None:
    """A schedule's step after each of total_steps steps of the optimizer, as programs have it, and no more.

    What the last of them sets is for no step: PyTorch goes past the end of the curve there, to a negative rate even.
    """
    options = {"max_lr": 0.1, "total_steps": 10, **options}
    a, schedule = ours("SGD", "OneCycleLR", options)
    b, their_schedule = make(
        torch.optim, [torch.nn.Parameter(torch.ones(2)) for _ in range(2)], "SGD", "OneCycleLR", options
    )
    for _ in range(9):
        a.step(), b.step(), schedule.step(), their_schedule.step()
        assert schedule.get_last_lr() == pytest.approx(their_schedule.get_last_lr(), rel=1e-9, abs=1e-15)
        for group, other in zip(a.param_groups, b.param_groups, strict=True):
            assert group["momentum"] == pytest.approx(other["momentum"], rel=1e-9)
    end = schedule.get_last_lr()
    schedule.step(), their_schedule.step()
    assert schedule.get_last_lr() == end == pytest.approx([0.1 / 25 / 1e4] * 2)
    with pytest.raises(ValueError, match="made for 10 steps; step 11 is too many"):
        schedule.step()
    with pytest.raises(ValueError, match="Tried to step 11 times"):
        their_schedule.step()


def test_cycle_of_momentum_needs_momentum():
    class Plain(optim.Optimizer):
        pass

    optimizer = Plain([nn.Parameter(dtrain.ones(2))], {"lr": 0.1})
    with pytest.raises(ValueError, match="cycle_momentum needs"):
        lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=3)
    lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=3, cycle_momentum=False)


def test_a_learning_rate_set_by_hand_is_kept(torch: Any) -> None:
    """Plateau by hand: divided by ten in the middle."""
    rates = []
    for library in (dtrain, torch):
        optimizer = library.optim.SGD(library.nn.Linear(2, 2).parameters(), lr=0.5)
        schedule = library.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
        for step in range(9):
            optimizer.step()
            if step == 4:
                optimizer.param_groups[0]["lr"] *= 0.1
            schedule.step()
            rates.append(optimizer.param_groups[0]["lr"])
    assert rates[:9] == pytest.approx(rates[9:], rel=1e-12)
