"""Checks of options, so that a bad one is named when the optimizer is made."""

from __future__ import annotations

from typing import Any

from dtrain.autograd import Tensor

__all__ = ["WITHOUT_EFFECT", "at_least_zero", "betas_in_range", "number", "pytorchs"]

#: PyTorch's options that choose between ways of computing the same; groups keep them, and updates do not get them.
WITHOUT_EFFECT = ("foreach", "fused", "capturable", "differentiable")


def number(value: Any) -> Any:
    """A Tensor of one element as a Python number, in a tuple, too; anything else as it is."""
    if value.__class__ is float or value.__class__ is bool:
        return value
    if isinstance(value, tuple):
        return tuple(map(number, value))
    return value.item() if isinstance(value, Tensor) else value


def at_least_zero(**options: Any) -> None:
    """Raise ValueError for the first option that is negative (or NaN), or a Tensor of more than one element."""
    for name, value in options.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"{name} must be a number or a Tensor of one element, got one of shape {value.shape}")
        if not number(value) >= 0:
            raise ValueError(f"{name} must be at least 0, got {number(value)}")


def betas_in_range(betas: tuple[Any, Any]) -> tuple[float, float]:
    """Two numbers, or two Tensors of one element, as numbers. Raise ValueError unless both are in [0, 1)."""
    if len(betas) != 2 or any(isinstance(b, Tensor) and b.numel() != 1 for b in betas):
        raise ValueError(f"betas must be two numbers in [0, 1), or two Tensors of one element, got {betas}")
    if isinstance(betas[0], Tensor) != isinstance(betas[1], Tensor):
        raise ValueError(f"betas must be two numbers or two Tensors, got one of each: {betas}")
    first, second = (number(b) for b in betas)
    if not (0 <= first < 1 and 0 <= second < 1):
        raise ValueError(f"betas must be two numbers in [0, 1), got {(first, second)}")
    return first, second


def pytorchs(**options: bool | None) -> dict[str, Any]:
    """Those of `WITHOUT_EFFECT` that an optimizer of PyTorch has.

    Raises NotImplementedError for differentiable=True, RuntimeError for fused=True and foreach=True together.
    """
    if options.get("differentiable"):
        raise NotImplementedError(
            "differentiable=True: updates are made in place on flat buffers and are not recorded; leave it False, and "
            "write an update that is to be differentiated with operations on tensors"
        )
    if options.get("fused") and options.get("foreach"):
        raise RuntimeError("fused and foreach name two ways of computing the same; at most one of them may be True")
    return options
