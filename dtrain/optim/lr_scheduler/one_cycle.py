"""One cycle, up and down."""

from __future__ import annotations

import math

from dtrain.optim.lr_scheduler.momentum import momentum_option, set_momentum
from dtrain.optim.lr_scheduler.schedule import LRScheduler, check_optimizer, for_each_group
from dtrain.optim.optimizer import Optimizer

__all__ = ["OneCycleLR"]


class OneCycleLR(LRScheduler):
    """The learning rate rises from max_lr / div_factor to max_lr, then falls to that / final_div_factor.

    Smith and Topin, arXiv:1708.07120. It rises for pct_start of total_steps (or epochs * steps_per_epoch).
    anneal_strategy: "cos" or "linear". cycle_momentum moves momentum (SGD, RMSprop) or the first beta
    (Adam) the other way, between max_momentum and base_momentum. three_phase falls to the initial
    rate first, as long as it rose, then on. `step()` may follow each of total_steps steps of the optimizer, as in
    PyTorch; the last call leaves the rate where it ended, which PyTorch's goes past. Raises ValueError for one call
    more, without a number of steps, for pct_start outside [0, 1], another anneal_strategy, a wrong number of max_lr,
    base_momentum or max_momentum, and with cycle_momentum for an optimizer that has neither momentum nor betas.
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
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer)
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
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            momentum_option(optimizer)
            self.base_momentums = for_each_group("base_momentum", optimizer, base_momentum)
            self.max_momentums = for_each_group("max_momentum", optimizer, max_momentum)
        for group, high in zip(optimizer.param_groups, for_each_group("max_lr", optimizer, max_lr), strict=True):
            if last_epoch == -1:
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
        if self.last_epoch > self.total_steps:
            raise ValueError(f"OneCycleLR was made for {self.total_steps} steps; step {self.last_epoch} is too many")
        start = 0.0
        for phase in self.phases:
            if self.last_epoch <= phase[0]:
                break
            start = phase[0]
        end, low, high, momentum_rises = phase
        share = (self.last_epoch - start) / (end - start) if end != start else 1.0
        if self.cycle_momentum:
            values = list(self.max_momentums)
            if momentum_rises is not None:
                ends = (self.base_momentums, self.max_momentums)
                pairs = zip(*(ends if momentum_rises else ends[::-1]), strict=True)
                values = [self._between(a, b, share) for a, b in pairs]
            set_momentum(self.optimizer, values)
        return [self._between(group[low], group[high], share) for group in self.optimizer.param_groups]
