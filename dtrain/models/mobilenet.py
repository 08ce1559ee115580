"""MobileNetV2. Sandler et al., "Inverted residuals and linear bottlenecks", arXiv:1801.04381."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dtrain import nn
from dtrain.autograd import Tensor
from dtrain.models.blocks import ConvNormActivation, make_divisible
from dtrain.models.published import with_weights

__all__ = ["MobileNetV2", "mobilenet_v2"]

#: (expansion, channels, blocks, stride of the first of them) of each stage: table 2 of the paper.
_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


class _InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, 3x3 in each channel alone, 1x1 to `outputs`, plus x where shapes agree."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, expand_ratio: int, norm_layer: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        hidden = int(round(inputs * expand_ratio))
        options: dict[str, Any] = {"norm_layer": norm_layer, "activation_layer": nn.ReLU6}
        layers: list[nn.Module] = []
        if expand_ratio != 1:
            layers.append(ConvNormActivation(inputs, hidden, 1, **options))
        layers.append(ConvNormActivation(hidden, hidden, stride=stride, groups=hidden, **options))
        self.conv = nn.Sequential(*layers, nn.Conv2d(hidden, outputs, 1, bias=False), norm_layer(outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Inverted residuals between a 3x3 convolution and a linear layer.  (N, 3, H, W) -> (N, num_classes)

    width_mult: a factor of the numbers of channels, which are rounded to multiples of round_nearest.
    inverted_residual_setting: rows of (expansion, channels, blocks, stride of the first); default: the paper's.
    block, norm_layer: other classes for the blocks, and the norm of a number of channels. dropout: the probability
    before the linear layer. Raises ValueError for rows of another length.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width_mult: float = 1.0,
        inverted_residual_setting: Sequence[Sequence[int]] | None = None,
        round_nearest: int = 8,
        block: Callable[..., nn.Module] | None = None,
        norm_layer: Callable[[int], nn.Module] | None = None,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        stages = _STAGES if inverted_residual_setting is None else inverted_residual_setting
        if not stages or any(len(row) != 4 for row in stages):
            raise ValueError(
                f"inverted_residual_setting has rows of (expansion, channels, blocks, stride), got {stages}"
            )
        block, norm = block or _InvertedResidual, norm_layer or nn.BatchNorm2d
        channels = make_divisible(32 * width_mult, round_nearest)
        self.last_channel = make_divisible(1280 * max(1.0, width_mult), round_nearest)
        self.features = nn.Sequential(
            ConvNormActivation(3, channels, stride=2, norm_layer=norm, activation_layer=nn.ReLU6)
        )
        for expansion, wanted, blocks, first in stages:
            outputs = make_divisible(wanted * width_mult, round_nearest)
            for i in range(blocks):
                stride = first if i == 0 else 1
                self.features.append(block(channels, outputs, stride, expand_ratio=expansion, norm_layer=norm))
                channels = outputs
        self.features.append(
            ConvNormActivation(channels, self.last_channel, 1, norm_layer=norm, activation_layer=nn.ReLU6)
        )
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.last_channel, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(nn.functional.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


def mobilenet_v2(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> MobileNetV2:
    """MobileNetV2: 3.5 M parameters, 71.9% of ImageNet with its first published weights. Options: see `MobileNetV2`."""
    return with_weights("mobilenet_v2", MobileNetV2, weights, progress, kwargs)
