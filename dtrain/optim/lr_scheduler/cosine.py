"""Schedules that follow a cosine (Loshchilov and Hutter, arXiv:1608.03983)."""

from __future__ import annotations

import math

from dtrain.autograd import as_one_call
from dtrain.optim.lr_scheduler.schedule import LRScheduler, rates, set_rates
from dtrain.optim.optimizer import Optimizer

__all__ = ["CosineAnnealingLR", "CosineAnnealingWarmRestarts"]


class CosineAnnealingLR(LRScheduler):
    """lr = eta_min + (base - eta_min) c(t) / 2, c(t) = 1 + cos(pi t / T_max). ValueError for T_max below 1.

    Each step takes lr - eta_min times c(t) / c(t - 1), so that it goes on from what others have set.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        if T_max < 1:
            raise ValueError(f"T_max must be at least 1, got {T_max}")
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def _height(self, t: int) -> float:
        return 1 + math.cos(math.pi * t / self.T_max)

    def get_lr(self) -> list[float]:
        now, t, low = rates(self.optimizer), self.last_epoch, self.eta_min
        if self._is_initial:
            return now
        if self._step_count == 1 and t > 0:
            return self._get_closed_form_lr()
        if (t - 1 - self.T_max) % (2 * self.T_max) == 0:  # from the bottom, where the height is 0
            return [
                lr + (base - low) * self._height(self.T_max + 1) / 2
                for lr, base in zip(now, self.base_lrs, strict=True)
            ]
        ratio = self._height(t) / self._height(t - 1)
        return [low + (lr - low) * ratio for lr in now]

    def _get_closed_form_lr(self) -> list[float]:
        return [self.eta_min + (base - self.eta_min) * self._height(self.last_epoch) / 2 for base in self.base_lrs]


class CosineAnnealingWarmRestarts(LRScheduler):
    """lr = eta_min + (base - eta_min) (1 + cos(pi T_cur / T_i)) / 2, in periods of T_0, T_0 T_mult, ... steps

    T_cur: steps since the period began, T_i: its length. `step(epoch)` goes to any epoch, a fraction too.
    ValueError unless T_0 and T_mult are whole numbers from 1 on, and for a negative epoch.
    """

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        if not (isinstance(T_0, int) and T_0 > 0 and isinstance(T_mult, int) and T_mult > 0):
            raise ValueError(f"T_0 and T_mult must be whole numbers from 1 on, got {T_0} and {T_mult}")
        if not isinstance(eta_min, (int, float)):
            raise ValueError(f"eta_min must be a number, got {eta_min!r}")
        self.T_0, self.T_i, self.T_mult, self.eta_min = T_0, T_0, T_mult, eta_min
        self.T_cur: float = last_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        share = (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2
        return [self.eta_min + (base - self.eta_min) * share for base in self.base_lrs]

    @as_one_call
    def step(self, epoch: float | None = None) -> None:
        """Go one step on, or to `epoch`, and set the groups' learning rates."""
        self._step_count += 1
        self._update_lr(epoch)

    def _update_lr(self, epoch: float | None = None) -> None:
        if epoch is None and self.last_epoch < 0:
            epoch = 0
        if epoch is None:
            epoch = self.last_epoch + 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur -= self.T_i
                self.T_i *= self.T_mult
        else:
            self._go_to(epoch)
        self.last_epoch = math.floor(epoch)
        set_rates(self.optimizer, self.get_lr())
        self._last_lr = rates(self.optimizer)

    def _go_to(self, epoch: float) -> None:
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}")
        self.T_cur, self.T_i = epoch, self.T_0
        if self.T_mult == 1:
            self.T_cur = epoch % self.T_0
        else:
            while self.T_cur >= self.T_i:
                self.T_cur -= self.T_i
                self.T_i *= self.T_mult
