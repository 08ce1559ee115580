"""Schedules of the learning rate, stated as functions of the number of steps taken."""

from __future__ import annotations

import math
from typing import Any

from dtrain.optim.optimizer import Optimizer

__all__ = ["CosineAnnealingLR", "LRScheduler", "LinearLR", "OneCycleLR", "StepLR"]


class LRScheduler:
    """Base: `get_lr()` gives the groups' learning rates after `last_epoch` steps; `step()` sets the next ones.

    Call `step()` after `optimizer.step()`, once per epoch or per step as the schedule is meant.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._last_lr: list[float] = [group["lr"] for group in optimizer.param_groups]
        self.step()

    def get_lr(self) -> list[float]:
        """The learning rate of each group after `last_epoch` steps."""
        raise NotImplementedError

    def step(self) -> None:
        """Go one step on and set the groups' learning rates."""
        groups = self.optimizer.param_groups
        for i, (group, last) in enumerate(zip(groups, self._last_lr, strict=True)):
            if last and group["lr"] != last:  # somebody else has set it: go on from there
                self.base_lrs[i] *= group["lr"] / last
        self.last_epoch += 1
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr

    def get_last_lr(self) -> list[float]:
        """The learning rates set last."""
        return self._last_lr

    def state_dict(self) -> dict[str, Any]:
        """All but the optimizer."""
        return {name: value for name, value in self.__dict__.items() if name != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where `state_dict` was made."""
        self.__dict__.update(state_dict)


class StepLR(LRScheduler):
    """lr = base * gamma ** (t // step_size)"""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        if step_size < 1:
            raise ValueError(f"step_size must be at least 1, got {step_size}")
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [base * self.gamma ** (self.last_epoch // self.step_size) for base in self.base_lrs]


class CosineAnnealingLR(LRScheduler):
    """lr = eta_min + (base - eta_min) (1 + cos(pi t / T_max)) / 2 (Loshchilov and Hutter, arXiv:1608.03983)."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        if T_max < 1:
            raise ValueError(f"T_max must be at least 1, got {T_max}")
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        share = (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2
        return [self.eta_min + (base - self.eta_min) * share for base in self.base_lrs]


class LinearLR(LRScheduler):
    """lr = base * (start_factor + (end_factor - start_factor) * min(t, total_iters) / total_iters)"""

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

    def get_lr(self) -> list[float]:
        share = min(self.last_epoch, self.total_iters) / self.total_iters
        factor = self.start_factor + (self.end_factor - self.start_factor) * share
        return [base * factor for base in self.base_lrs]


class OneCycleLR(LRScheduler):
    """The learning rate rises from max_lr / div_factor to max_lr, then falls to that / final_div_factor.

    Smith and Topin, arXiv:1708.07120. It rises for pct_start of total_steps (or epochs * steps_per_epoch).
    anneal_strategy: "cos" or "linear". cycle_momentum moves momentum (SGD, RMSprop) or the first beta
    (Adam) the other way, between max_momentum and base_momentum. three_phase falls to the initial
    rate first, as long as it rose, then on. Raises ValueError for a step beyond total_steps.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if total_steps is None:
            if not epochs or not steps_per_epoch:
                raise ValueError("OneCycleLR needs total_steps, or epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        if total_steps < 1 or not 0 <= pct_start <= 1:
            raise ValueError(
                f"total_steps must be at least 1 and pct_start in [0, 1], got {total_steps} and {pct_start}"
            )
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}")
        self.total_steps, self.anneal_strategy = total_steps, anneal_strategy
        self.cycle_momentum, self.base_momentum, self.max_momentum = cycle_momentum, base_momentum, max_momentum
        groups = optimizer.param_groups
        highest = max_lr if isinstance(max_lr, (list, tuple)) else [max_lr] * len(groups)
        if cycle_momentum and not any(name in groups[0] for name in ("momentum", "betas")):
            raise ValueError("cycle_momentum needs an optimizer with momentum or betas; pass cycle_momentum=False")
        for group, high in zip(groups, highest, strict=True):
            low = high / div_factor
            group.update(initial_lr=low, max_lr=high, min_lr=low / final_div_factor)
        rise = float(pct_start * total_steps) - 1
        self.phases: list[tuple[float, str, str, bool | None]] = [(rise, "initial_lr", "max_lr", False)]
        if three_phase:
            self.phases += [(2 * rise, "max_lr", "initial_lr", True), (total_steps - 1, "initial_lr", "min_lr", None)]
        else:
            self.phases += [(total_steps - 1, "max_lr", "min_lr", True)]
        super().__init__(optimizer, last_epoch)

    def _between(self, start: float, end: float, share: float) -> float:
        if self.anneal_strategy == "linear":
            return start + (end - start) * share
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))

    def get_lr(self) -> list[float]:
        if self.last_epoch >= self.total_steps:
            raise ValueError(
                f"OneCycleLR was made for {self.total_steps} steps; step {self.last_epoch + 1} is too many"
            )
        start = 0.0
        for phase in self.phases:
            if self.last_epoch <= phase[0]:
                break
            start = phase[0]
        end, low, high, momentum_rises = phase
        share = (self.last_epoch - start) / (end - start) if end != start else 1.0
        if self.cycle_momentum:
            ends = (
                (self.base_momentum, self.max_momentum) if momentum_rises else (self.max_momentum, self.base_momentum)
            )
            momentum = self.max_momentum if momentum_rises is None else self._between(*ends, share)
            for group in self.optimizer.param_groups:
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum
        return [self._between(group[low], group[high], share) for group in self.optimizer.param_groups]
