"""Schedules that multiply the learning rate by a factor, which depends on the step alone."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable

from dtrain.optim.lr_scheduler.schedule import LRScheduler, rates
from dtrain.optim.optimizer import Optimizer

__all__ = ["ConstantLR", "ExponentialLR", "Factor", "LinearLR", "MultiStepLR", "PolynomialLR", "StepLR"]


class Factor(LRScheduler):
    """Base: lr = base * factor(t). Each step multiplies the present lr by factor(t) / factor(t - 1).

    So several schedules can act together, and a learning rate that was set by hand is gone on from.
    """

    #: Whether one that begins with last_epoch >= 0 makes the change of its first step.
    changes_at_resume = False

    def factor(self, t: int) -> float:
        """What the base is multiplied by after t steps."""
        raise NotImplementedError

    def get_lr(self) -> list[float]:
        now, t = rates(self.optimizer), self.last_epoch
        if t == 0:
            return [lr * self.factor(0) for lr in now]
        new, old = self.factor(t), self.factor(t - 1)
        if new == old or (self._is_initial and not self.changes_at_resume):
            return now
        return self._get_closed_form_lr() if old == 0 else [lr * (new / old) for lr in now]

    def _get_closed_form_lr(self) -> list[float]:
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]


class StepLR(Factor):
    """lr = base * gamma ** (t // step_size). ValueError for a step_size below 1."""

    changes_at_resume = True

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        if step_size < 1:
            raise ValueError(f"step_size must be at least 1, got {step_size}")
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return self.gamma ** (t // self.step_size)


class MultiStepLR(Factor):
    """lr = base * gamma ** (number of milestones up to t)"""

    changes_at_resume = True

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones, self.gamma = Counter(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return self.gamma ** bisect_right(sorted(self.milestones.elements()), t)


class ConstantLR(Factor):
    """lr = base * factor before total_iters, base from then on. ValueError for a factor outside [0, 1]."""

    changes_at_resume = True

    def __init__(self, optimizer: Optimizer, factor: float = 1 / 3, total_iters: int = 5, last_epoch: int = -1) -> None:
        if not 0 <= factor <= 1:
            raise ValueError(f"factor must be in [0, 1], got {factor}")
        self._factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return self._factor if t < self.total_iters else 1.0


class LinearLR(Factor):
    """lr = base * (start_factor + (end_factor - start_factor) * min(t, total_iters) / total_iters)

    A warm-up, say. ValueError for start_factor outside (0, 1], end_factor outside [0, 1], total_iters below 1.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < start_factor <= 1 or not 0 <= end_factor <= 1:
            raise ValueError(
                f"start_factor must be in (0, 1], end_factor in [0, 1], got {start_factor} and {end_factor}"
            )
        if total_iters < 1:
            raise ValueError(f"total_iters must be at least 1, got {total_iters}")
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return self.start_factor + (self.end_factor - self.start_factor) * (min(t, self.total_iters) / self.total_iters)


class ExponentialLR(Factor):
    """lr = base * gamma ** t"""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return self.gamma**t


class PolynomialLR(Factor):
    """lr = base * (1 - min(t, total_iters) / total_iters) ** power. ValueError for total_iters below 1."""

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        if total_iters < 1:
            raise ValueError(f"total_iters must be at least 1, got {total_iters}")
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return (1 - min(t, self.total_iters) / self.total_iters) ** self.power
