"""A schedule that follows a metric."""

from __future__ import annotations

import math
from typing import Any

from dtrain.autograd import as_one_call
from dtrain.optim.lr_scheduler.schedule import LRScheduler, check_optimizer, for_each_group, rates, set_rates
from dtrain.optim.optimizer import Optimizer

__all__ = ["ReduceLROnPlateau"]


class ReduceLROnPlateau(LRScheduler):
    """lr = max(factor * lr, min_lr) once the metric has not got better for more than `patience` steps.

    `step(metric)` is called after each evaluation, with the same value on every rank (a metric of dtrain.metrics is).
    mode: whether less ("min") or more ("max") is better: by threshold times the best (threshold_mode="rel"), or by
    threshold ("abs"). After a reduction `cooldown` steps do not count. A change by no more than eps is not made.
    ValueError for factor >= 1, another mode or threshold_mode, and a wrong number of min_lr.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | list[float] = 0,
        eps: float = 1e-8,
    ) -> None:
        check_optimizer(optimizer)
        if factor >= 1:
            raise ValueError(f"factor must be below 1, got {factor}")
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max', got {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold_mode must be 'rel' or 'abs', got {threshold_mode!r}")
        self.optimizer = optimizer
        self.min_lrs = for_each_group("min_lr", optimizer, min_lr)
        self.default_min_lr = None if isinstance(min_lr, (list, tuple)) else min_lr
        self.mode, self.factor, self.patience = mode, factor, patience
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.cooldown, self.eps = cooldown, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.cooldown_counter = self.num_bad_epochs = self.last_epoch = 0
        self._last_lr = rates(optimizer)

    @property
    def in_cooldown(self) -> bool:
        """Whether steps do not count, because of a reduction shortly before."""
        return self.cooldown_counter > 0

    @as_one_call
    def step(self, metrics: Any, epoch: int | None = None) -> None:
        """Take the metric's value after an epoch, a number or a Tensor of one element."""
        value = float(metrics)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self._is_better(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = rates(self.optimizer)

    def _is_better(self, value: float) -> bool:
        sign = 1 if self.mode == "min" else -1
        if self.threshold_mode == "rel":
            return sign * value < sign * (self.best * (1 - sign * self.threshold))
        return sign * value < sign * self.best - self.threshold

    def _reduce(self) -> None:
        groups = len(self.optimizer.param_groups)
        if len(self.min_lrs) != groups:
            if self.default_min_lr is None:
                raise RuntimeError(
                    f"the optimizer has {groups} groups, and there are {len(self.min_lrs)} min_lrs: append to min_lrs"
                )
            self.min_lrs = [self.default_min_lr] * groups
        now = rates(self.optimizer)
        new = [max(lr * self.factor, least) for lr, least in zip(now, self.min_lrs, strict=True)]
        set_rates(self.optimizer, [b if a - b > self.eps else a for a, b in zip(now, new, strict=True)])
