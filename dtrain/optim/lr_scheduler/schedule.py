"""The base of all schedules: it counts steps, sets the groups' learning rates, and has a state."""

from __future__ import annotations

import types
import warnings
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, as_one_call
from dtrain.optim.checks import number
from dtrain.optim.optimizer import Optimizer

__all__ = ["LRScheduler", "check_optimizer", "for_each_group", "rates", "set_rates"]


class LRScheduler:
    """Base: `get_lr()` gives the groups' learning rates after `last_epoch` steps; `step()` sets the next ones.

    Call `step()` after `optimizer.step()`, once per epoch or per step as the schedule is meant; UserWarning where the
    first call comes before the optimizer's. last_epoch: -1 begins, and notes each group's learning rate as its
    "initial_lr"; otherwise the schedule goes on from there with a loaded optimizer, whose groups have that (KeyError
    without). TypeError for what is no optimizer. A learning rate that is a Tensor keeps being one, with another value.

    A class of your own defines `get_lr`, from `self.optimizer`, `self.last_epoch` and `self.base_lrs`, and may define
    `_get_closed_form_lr`, the same from `base_lrs` alone, which `step(epoch)` takes.
    """

    #: Attributes that are functions, or lists of them; of these the state has the attributes of objects only.
    functions: tuple[str, ...] = ()
    _is_initial = False

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        check_optimizer(optimizer)
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", number(group["lr"]))
            elif "initial_lr" not in group:
                raise KeyError(
                    f"group {i} of the optimizer has no 'initial_lr', from which last_epoch={last_epoch} goes on: load "
                    "the optimizer's state first, or begin with last_epoch=-1"
                )
        self.base_lrs: list[float] = [number(group["initial_lr"]) for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._last_lr = rates(optimizer)
        self._initial_step()

    def _initial_step(self) -> None:
        """The step that sets the learning rates before the first step of the optimizer."""
        self._step_count = 0
        self._is_initial = True
        self.step()
        self._is_initial = False

    def get_lr(self) -> list[float]:
        """The learning rate of each group after `last_epoch` steps."""
        raise NotImplementedError

    @as_one_call
    def step(self, epoch: int | None = None) -> None:
        """Go one step on, or to `epoch`, and set the groups' learning rates."""
        if self._step_count == 1 and not self.optimizer._opt_called:
            warnings.warn(
                "the schedule's step() was called before the optimizer's, so the first learning rate is never used: "
                "call optimizer.step() first",
                UserWarning,
                stacklevel=2,
            )
        self._step_count += 1
        self._update_lr(epoch)

    def _update_lr(self, epoch: int | None = None) -> None:
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        closed = None if epoch is None else getattr(self, "_get_closed_form_lr", None)
        set_rates(self.optimizer, self.get_lr() if closed is None else closed())
        self._last_lr = rates(self.optimizer)

    def get_last_lr(self) -> list[float]:
        """The learning rates set last, as numbers."""
        return self._last_lr

    def state_dict(self) -> dict[str, Any]:
        """All but the optimizer; of functions the attributes of objects. The optimizer's state belongs to it."""
        return {
            name: _saved(value) if name in self.functions else value
            for name, value in self.__dict__.items()
            if name not in ("optimizer", "_is_initial")
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where `state_dict` was made; functions stay, and objects that are called get their attributes."""
        for name, value in state_dict.items():
            if name in self.functions:
                _restore(getattr(self, name), value)
            else:
                setattr(self, name, value)


def _saved(function: Any) -> Any:
    if isinstance(function, list):
        return [_saved(f) for f in function]
    return None if function is None or isinstance(function, types.FunctionType) else dict(function.__dict__)


def _restore(function: Any, saved: Any) -> None:
    if isinstance(function, list):
        for f, s in zip(function, saved, strict=True):
            _restore(f, s)
    elif saved is not None:
        function.__dict__.update(saved)


def check_optimizer(optimizer: Any) -> None:
    """Raise TypeError for what is no optimizer."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"a schedule is one of an optimizer, got {type(optimizer).__name__}")


def rates(optimizer: Optimizer) -> list[float]:
    """The groups' learning rates as numbers."""
    return [number(group["lr"]) for group in optimizer.param_groups]


def set_rates(optimizer: Optimizer, values: list[float]) -> None:
    """Set the groups' learning rates; a Tensor gets the value. Raises ValueError for a wrong number of them."""
    for group, value in zip(optimizer.param_groups, values, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].array[...] = np.asarray(number(value))
        else:
            group["lr"] = value


def for_each_group(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """A value for each group: `value` for all, or one each. Raises ValueError for another number of them."""
    groups = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * groups
    if len(value) != groups:
        raise ValueError(f"{name} must be one value, or one for each of the {groups} groups, got {len(value)}")
    return list(value)
