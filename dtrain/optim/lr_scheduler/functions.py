"""Schedules that are functions of the user's."""

from __future__ import annotations

from collections.abc import Callable

from dtrain.optim.lr_scheduler.schedule import LRScheduler, for_each_group, rates
from dtrain.optim.optimizer import Optimizer

__all__ = ["LambdaLR", "MultiplicativeLR"]


class _OfFunctions(LRScheduler):
    functions = ("lr_lambdas",)

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        self.lr_lambdas = for_each_group("lr_lambda", optimizer, lr_lambda)
        super().__init__(optimizer, last_epoch)


class LambdaLR(_OfFunctions):
    """lr = base * lr_lambda(t); lr_lambda: one function, or one for each group (ValueError for another number)."""

    def get_lr(self) -> list[float]:
        return [base * f(self.last_epoch) for f, base in zip(self.lr_lambdas, self.base_lrs, strict=True)]


class MultiplicativeLR(_OfFunctions):
    """lr = lr * lr_lambda(t) in each step but the first; lr_lambda: one function, or one for each group.

    Raises ValueError for another number of functions.
    """

    def get_lr(self) -> list[float]:
        now = rates(self.optimizer)
        if self._is_initial:
            return now
        return [lr * f(self.last_epoch) for f, lr in zip(self.lr_lambdas, now, strict=True)]
