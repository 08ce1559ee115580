"""Parts that several networks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dtrain import nn
from dtrain.autograd import Tensor
from dtrain.ops.creation import ones

__all__ = ["ConvNormActivation", "StochasticDepth", "make_divisible"]


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


class StochasticDepth(nn.Module):
    """In training, a branch is zero for a sample with probability p, else divided by 1 - p.  (N, ...) -> the same

    Huang et al., arXiv:1603.09382.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = ones((x.shape[0], *[1] * (x.ndim - 1)), dtype=x.dtype, device=x.device)
        return x * nn.functional.dropout(kept, self.p)


def make_divisible(channels: float, divisor: int) -> int:
    """The multiple of `divisor` next to `channels`, but at least one, and no less than nine tenths of `channels`."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest
