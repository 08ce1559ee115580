"""Schedules made of schedules: one after the other, or together."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from dtrain.autograd import as_one_call
from dtrain.optim.lr_scheduler.plateau import ReduceLROnPlateau
from dtrain.optim.lr_scheduler.schedule import LRScheduler, rates, set_rates
from dtrain.optim.optimizer import Optimizer

__all__ = ["ChainedScheduler", "SequentialLR"]


class _Joined(LRScheduler):
    def _join(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None) -> None:
        name = type(self).__name__
        if len(schedulers) < 1:
            raise ValueError(f"{name} needs at least one schedule, got none")
        self.optimizer = schedulers[0].optimizer if optimizer is None else optimizer
        for i, schedule in enumerate(schedulers):
            if not hasattr(schedule, "optimizer"):
                raise TypeError(f"{name} joins schedules, got {type(schedule).__name__} at {i}")
            if isinstance(schedule, ReduceLROnPlateau):
                raise ValueError(
                    f"{name} cannot step ReduceLROnPlateau (at {i}), which takes a metric; step it yourself"
                )
            if schedule.optimizer is not self.optimizer:
                raise ValueError(f"{name} joins schedules of one optimizer; that at {i} has another one")
        self._schedulers = list(schedulers)

    def state_dict(self) -> dict[str, Any]:
        """All but the optimizer, with the states of the joined schedules."""
        state = super().state_dict()
        state["_schedulers"] = [s.state_dict() for s in self._schedulers]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where `state_dict` was made."""
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "_schedulers"})
        for schedule, state in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            schedule.load_state_dict(state)


class ChainedScheduler(_Joined):
    """All schedules at each step, each going on from what the one before has set: `step()` calls theirs in order.

    ValueError for none, for ReduceLROnPlateau, and for schedules of another optimizer.
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        self._join(schedulers, optimizer)
        self._last_lr = rates(self.optimizer)

    @as_one_call
    def step(self) -> None:
        """A step of each."""
        for schedule in self._schedulers:
            schedule.step()
        self._last_lr = rates(self.optimizer)

    def _initial_step(self) -> None:
        for schedule in self._schedulers:
            schedule._initial_step()
        self._last_lr = rates(self.optimizer)

    def _update_lr(self, epoch: int | None = None) -> None:
        for schedule in self._schedulers:
            schedule._update_lr(epoch)
        self._last_lr = rates(self.optimizer)


class SequentialLR(_Joined):
    """The first schedule up to the first milestone, the second from there (with t counted anew), and so on.

        warmup = LinearLR(optimizer, 0.1, total_iters=5)
        SequentialLR(optimizer, [warmup, CosineAnnealingLR(optimizer, 95)], milestones=[5])

    ValueError unless there is one schedule more than milestones; otherwise as ChainedScheduler.
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: list[int], last_epoch: int = -1
    ) -> None:
        self._join(schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"{len(schedulers)} schedules need {len(schedulers) - 1} milestones between them, got {len(milestones)}"
            )
        self._milestones = milestones
        self.last_epoch = last_epoch + 1
        set_rates(optimizer, [group["initial_lr"] for group in optimizer.param_groups])
        _take_back(self)
        first = self._schedulers[bisect_right(milestones, 0)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a SequentialLR in this one steps before the optimizer
            first._initial_step()
        self._last_lr = first.get_last_lr()

    @as_one_call
    def step(self) -> None:
        """A step of the schedule whose turn it is."""
        self.last_epoch += 1
        i = bisect_right(self._milestones, self.last_epoch)
        schedule = self._schedulers[i]
        if i > 0 and self._milestones[i - 1] == self.last_epoch:
            schedule._update_lr(0)
        else:
            schedule.step()
        self._last_lr = schedule.get_last_lr()


def _take_back(schedule: LRScheduler) -> None:
    """Take back the step that a schedule made when it was made."""
    if isinstance(schedule, _Joined):
        for part in schedule._schedulers:
            _take_back(part)
    else:
        schedule.last_epoch -= 1
