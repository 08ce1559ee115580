"""What schedules that move the momentum as well have in common."""

from __future__ import annotations

from dtrain.optim.optimizer import Optimizer

__all__ = ["momentum_option", "set_momentum"]


def momentum_option(optimizer: Optimizer) -> str:
    """ "betas" or "momentum", which the optimizer has. Raises ValueError where it has neither."""
    for name in ("betas", "momentum"):
        if name in optimizer.defaults:
            return name
    raise ValueError("cycle_momentum needs an optimizer with momentum or betas; pass cycle_momentum=False")


def set_momentum(optimizer: Optimizer, values: list[float]) -> None:
    """Set each group's momentum, or its first beta."""
    name = momentum_option(optimizer)
    for group, value in zip(optimizer.param_groups, values, strict=True):
        group[name] = (value, *group["betas"][1:]) if name == "betas" else value
