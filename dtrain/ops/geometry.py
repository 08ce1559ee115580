"""Sizes of windows that slide over images, for convolution and pooling: one number for each dimension of the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.ops.shape import squeeze, unsqueeze

__all__ = ["Sizes", "batched", "numbers", "unbatched"]

Sizes = tuple[int, ...]


def numbers(name: str, value: Any, dims: int, least: int) -> Sizes:
    """One number, or `dims` of them, as `dims` of them. Raises ValueError for anything else or below `least`."""
    given = tuple(value) if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str) else (value,)
    if len(given) == 1:
        given *= dims
    if len(given) != dims or any(
        not isinstance(v, (int, np.integer)) or isinstance(v, bool) or v < least for v in given
    ):
        count = "one whole number" if dims == 1 else f"one or {dims} whole numbers"
        raise ValueError(f"{name} must be {count} of at least {least}, got {value!r}")
    return tuple(map(int, given))


def batched(name: str, input: Any, dims: int, empty: bool = False) -> Any:
    """input (N, C, *S) with `dims` sizes S, or (C, *S) as (1, C, *S). Raises ValueError for other shapes.

    Only N may be 0, or C as well where `empty`.
    """
    if input.ndim not in (dims + 1, dims + 2):
        raise ValueError(
            f"{name} needs an input of {dims + 1} or {dims + 2} dimensions, ((N,) C and {dims} more), got {input.shape}"
        )
    x = unsqueeze(input, 0) if input.ndim == dims + 1 else input
    if 0 in x.shape[1 + empty :]:
        raise ValueError(f"{name} needs images with elements (only N may be 0), got shape {input.shape}")
    return x


def unbatched(y: Any, input: Any) -> Any:
    """y without its first dimension where input came without one."""
    return y if y.ndim == input.ndim else squeeze(y, 0)
