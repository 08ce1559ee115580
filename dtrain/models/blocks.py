"""Parts that several networks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dtrain import nn

__all__ = ["ConvNormActivation", "make_divisible"]


class ConvNormActivation(nn.Sequential):
    """A convolution without bias that keeps the size but for its stride, a norm, an activation.

    (N, inputs, H, W) -> (N, outputs, ceil(H / stride), ceil(W / stride)) for an odd kernel_size. activation: a class of
    layers, or None.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
        activation_layer: Callable[..., nn.Module] | None = nn.ReLU,
    ) -> None:
        layers: list[Any] = [
            nn.Conv2d(inputs, outputs, kernel_size, stride, (kernel_size - 1) // 2, groups=groups, bias=False),
            norm_layer(outputs),
        ]
        if activation_layer is not None:
            layers.append(activation_layer(inplace=True))
        super().__init__(*layers)


def make_divisible(channels: float, divisor: int) -> int:
    """The multiple of `divisor` next to `channels`, but at least one, and no less than nine tenths of `channels`."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest
