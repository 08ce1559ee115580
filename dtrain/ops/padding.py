"""Padding: elements added around a tensor, made of ops that can be differentiated again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.autograd import constant
from dtrain.ops.arithmetic import where
from dtrain.ops.positions import rows, slice_of, unslice

__all__ = ["constant_pad_nd", "pad"]


def pad(input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """input with pad[0] elements before and pad[1] behind in the last dimension, pad[2] and pad[3] in the one before...

    mode: "constant" (value, 0 unless given; negative numbers take elements away, as in "replicate"), "reflect" (without
    the edge), "replicate" (the edge), "circular" (from the other end). Raises ValueError for an odd count, more numbers
    than dimensions, and padding that is too wide for the mode.
    """
    sizes = [int(n) for n in pad]
    if len(sizes) % 2 or len(sizes) > 2 * input.ndim:
        raise ValueError(f"pad takes an even number of sizes, at most {2 * input.ndim} for {input.shape}; got {sizes}")
    pairs = [(input.ndim - 1 - i, sizes[2 * i], sizes[2 * i + 1]) for i in range(len(sizes) // 2)]
    for dim, before, behind in pairs:
        if input.shape[dim] + before + behind < 0:
            raise ValueError(f"pad: {before} and {behind} leave less than nothing of dim {dim} of shape {input.shape}")
    if mode == "constant":
        return _constant(input, pairs, 0 if value is None else value)
    if mode not in ("reflect", "replicate", "circular"):
        raise ValueError(f"pad: mode must be 'constant', 'reflect', 'replicate' or 'circular', got {mode!r}")
    if value:
        raise ValueError(f"pad: mode {mode!r} takes no value, got {value}")
    if not len(pairs) < input.ndim or len(pairs) > 3 or input.ndim > len(pairs) + 2:
        raise ValueError(
            f"pad: {mode!r} pads the 1 to 3 dimensions behind (N, C) or (C); got {sizes} for {input.shape}"
        )
    for dim, before, behind in pairs:
        n = input.shape[dim]
        most = {"reflect": n - 1, "circular": n, "replicate": max(before, behind)}[mode]
        if max(before, behind) > most or not n:
            raise ValueError(f"pad: {mode!r} can add at most {most} to dim {dim} of shape {input.shape}, got {sizes}")
        if before or behind:
            input = rows(input, _sources(mode, n, before, behind), dim)
    return input


def constant_pad_nd(input: Any, pad: Sequence[int], value: float = 0) -> Any:
    """`pad` with mode "constant"."""
    return _padded(input, pad, value=value)


def _sources(mode: str, n: int, before: int, behind: int) -> np.ndarray:
    """Which element stands at each place of the padded dimension."""
    places = np.arange(-before, n + behind)
    if mode == "replicate":
        return places.clip(0, n - 1)
    if mode == "circular":  # of what negative numbers have left
        first, left = max(-before, 0), n + min(before, 0) + min(behind, 0)
        return first + np.arange(-max(before, 0), left + max(behind, 0)) % left
    places = abs(places)
    return np.where(places > n - 1, 2 * (n - 1) - places, places)


_padded = pad  # under a name that no argument has


def _constant(x: Any, pairs: list[tuple[int, int, int]], value: float) -> Any:
    inside = [slice(None)] * x.ndim
    kept = [slice(None)] * x.ndim
    shape = list(x.shape)
    for dim, before, behind in pairs:
        kept[dim] = slice(max(-before, 0), shape[dim] - max(-behind, 0))
        inside[dim] = slice(max(before, 0), max(before, 0) + shape[dim] - max(-before, 0) - max(-behind, 0))
        shape[dim] += before + behind
    y = unslice(slice_of(x, tuple(kept)), tuple(inside), tuple(shape))
    if not value:
        return y
    within = np.zeros(shape, bool)
    within[tuple(inside)] = True
    return where(constant(within), y, constant(np.asarray(value, x.dtype)))
