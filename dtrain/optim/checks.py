"""Checks of options, so that a bad one is named when the optimizer is made."""

from __future__ import annotations

__all__ = ["at_least_zero", "betas_in_range"]


def at_least_zero(**options: float) -> None:
    """Raise ValueError for the first option that is negative (or NaN)."""
    for name, value in options.items():
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}")


def betas_in_range(betas: tuple[float, float]) -> None:
    """Raise ValueError unless both are in [0, 1)."""
    if len(betas) != 2 or not all(0 <= b < 1 for b in betas):
        raise ValueError(f"betas must be two numbers in [0, 1), got {betas}")
