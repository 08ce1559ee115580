"""A schedule that goes up and down."""

from __future__ import annotations

import math
from collections.abc import Callable

from dtrain.optim.lr_scheduler.momentum import momentum_option, set_momentum
from dtrain.optim.lr_scheduler.schedule import LRScheduler, check_optimizer, for_each_group, set_rates
from dtrain.optim.optimizer import Optimizer

__all__ = ["CyclicLR"]


class CyclicLR(LRScheduler):
    """lr = base_lr + (max_lr - base_lr) h s

    h rises from 0 to 1 in step_size_up steps and falls in step_size_down (default: as many), again and again (Smith,
    arXiv:1506.01186). s: 1 with mode "triangular", 1 / 2 ** (c - 1) in the c-th cycle with
    "triangular2", gamma ** t with "exp_range"; or scale_fn of c (scale_mode="cycle") or of t ("iterations").
    cycle_momentum moves momentum, or the first beta, the other way: max_momentum - (max_momentum - base_momentum) h s.
    ValueError for another mode without scale_fn, and where the optimizer has neither momentum nor betas.
    """

    functions = ("_scale_fn_custom",)

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8,
        max_momentum: float | list[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer)
        lows = for_each_group("base_lr", optimizer, base_lr)
        self.max_lrs = for_each_group("max_lr", optimizer, max_lr)
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise ValueError(f"mode must be 'triangular', 'triangular2' or 'exp_range', or pass scale_fn; got {mode!r}")
        down = step_size_up if step_size_down is None else step_size_down
        self.total_size = float(step_size_up + down)
        self.step_ratio = step_size_up / self.total_size
        self.mode, self.gamma, self._scale_fn_custom = mode, gamma, scale_fn
        self.scale_mode = scale_mode if scale_fn is not None else "iterations" if mode == "exp_range" else "cycle"
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            momentum_option(optimizer)
            self.base_momentums = for_each_group("base_momentum", optimizer, base_momentum)
            self.max_momentums = for_each_group("max_momentum", optimizer, max_momentum)
        if last_epoch == -1:
            set_rates(optimizer, lows)
        super().__init__(optimizer, last_epoch)
        self.base_lrs = lows

    def scale_fn(self, x: float) -> float:
        """s, from the number of the cycle or of the step."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        if self.mode == "exp_range":
            return self.gamma**x
        return 1.0 if self.mode == "triangular" else 1 / 2.0 ** (x - 1)

    def get_lr(self) -> list[float]:
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1.0 + self.last_epoch / self.total_size - cycle
        height = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        height *= self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            set_momentum(
                self.optimizer,
                [high - (high - low) * height
                 for low, high in zip(self.base_momentums, self.max_momentums, strict=True)],
            )  # fmt: skip
        return [low + (high - low) * height for low, high in zip(self.base_lrs, self.max_lrs, strict=True)]
