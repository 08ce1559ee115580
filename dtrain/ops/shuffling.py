"""Channels exchanged for resolution and with each other: reshaped, transposed, reshaped."""

from __future__ import annotations

from typing import Any

from dtrain.ops.shape import permute, reshape

__all__ = ["channel_shuffle", "pixel_shuffle", "pixel_unshuffle"]


def _factor(name: str, factor: Any, least: int, shape: tuple[int, ...]) -> int:
    if len(shape) < least:
        raise ValueError(f"{name} needs an input of at least {least} dimensions, got shape {shape}")
    if factor < 1:
        raise ValueError(f"{name} needs a whole number of at least 1, got {factor} for an input of shape {shape}")
    return int(factor)


def pixel_shuffle(input: Any, upscale_factor: int) -> Any:
    """Channels become pixels: (*, C r^2, H, W) -> (*, C, H r, W r); channel c r^2 + i r + j goes to pixel (i, j).

    Raises ValueError for fewer than 3 dimensions and channels that r^2 does not divide. Source: Shi et al. 2016.
    """
    r = _factor("pixel_shuffle", upscale_factor, 3, input.shape)
    *batch, c, h, w = input.shape
    if c % (r * r):
        raise ValueError(
            f"pixel_shuffle: {r} * {r} does not divide the {c} channels of an input of shape {input.shape}"
        )
    n = len(batch)
    x = reshape(input, *batch, c // (r * r), r, r, h, w)
    return reshape(permute(x, *range(n + 1), n + 3, n + 1, n + 4, n + 2), *batch, c // (r * r), h * r, w * r)


def pixel_unshuffle(input: Any, downscale_factor: int) -> Any:
    """Pixels become channels, the inverse of `pixel_shuffle`: (*, C, H r, W r) -> (*, C r^2, H, W).

    Raises ValueError for fewer than 3 dimensions and heights or widths that r does not divide.
    """
    r = _factor("pixel_unshuffle", downscale_factor, 3, input.shape)
    *batch, c, h, w = input.shape
    if h % r or w % r:
        raise ValueError(f"pixel_unshuffle: {r} does not divide the last two dimensions of shape {input.shape}")
    n = len(batch)
    x = reshape(input, *batch, c, h // r, r, w // r, r)
    return reshape(permute(x, *range(n + 1), n + 2, n + 4, n + 1, n + 3), *batch, c * r * r, h // r, w // r)


def channel_shuffle(input: Any, groups: int) -> Any:
    """Channels of g groups interleaved: (N, C, *), channel i C/g + k goes to k g + i. Source: Zhang et al. 2018.

    Raises ValueError for fewer than 3 dimensions and channels that the groups do not divide.
    """
    g = _factor("channel_shuffle", groups, 3, input.shape)
    n, c, *rest = input.shape
    if c % g:
        raise ValueError(
            f"channel_shuffle: {g} groups do not divide the {c} channels of an input of shape {input.shape}"
        )
    x = reshape(input, n, g, c // g, *rest)
    return reshape(permute(x, 0, 2, 1, *range(3, x.ndim)), *input.shape)
