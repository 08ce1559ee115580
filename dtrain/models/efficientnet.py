"""EfficientNet. Tan and Le, arXiv:1905.11946."""

from __future__ import annotations

import math
from typing import Any

from dtrain import nn
from dtrain.autograd import Tensor
from dtrain.models.blocks import ConvNormActivation, StochasticDepth
from dtrain.models.published import with_weights
from dtrain.nn import functional as F

__all__ = ["EfficientNet", "efficientnet_b0"]

#: (expansion, kernel, stride of the first block, channels, blocks) of each stage: table 1 of the paper.
_STAGES = (
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)  # fmt: skip


class _SqueezeExcitation(nn.Module):
    """x times a number between 0 and 1 per channel, a function of the channels' means (Hu et al., arXiv:1709.01507)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.activation(self.fc1(F.adaptive_avg_pool2d(x, 1)))).sigmoid()


class _MBConv(nn.Module):
    """An inverted residual with squeeze and excitation.  (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)"""

    def __init__(
        self, expand_ratio: int, kernel: int, stride: int, inputs: int, outputs: int, drop_probability: float
    ) -> None:
        super().__init__()
        hidden = inputs * expand_ratio
        layers: list[nn.Module] = []
        if hidden != inputs:
            layers.append(ConvNormActivation(inputs, hidden, 1, activation_layer=nn.SiLU))
        layers += [
            ConvNormActivation(hidden, hidden, kernel, stride, groups=hidden, activation_layer=nn.SiLU),
            _SqueezeExcitation(hidden, max(1, inputs // 4)),
            ConvNormActivation(hidden, outputs, 1, activation_layer=None),
        ]
        self.block = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs
        self.stochastic_depth = StochasticDepth(drop_probability)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return x + self.stochastic_depth(y) if self.residual else y


class EfficientNet(nn.Module):
    """EfficientNet-B0's stages.  (N, 3, H, W) -> (N, num_classes)

    dropout: the probability before the linear layer. stochastic_depth_prob: of the last block to be left out for a
    sample in training; it grows with depth, from 0.
    """

    def __init__(self, dropout: float = 0.2, stochastic_depth_prob: float = 0.2, num_classes: int = 1000) -> None:
        super().__init__()
        channels, done, total = 32, 0, sum(stage[-1] for stage in _STAGES)
        self.features = nn.Sequential(ConvNormActivation(3, channels, stride=2, activation_layer=nn.SiLU))
        for expansion, kernel, first, outputs, blocks in _STAGES:
            stage = nn.Sequential()
            for i in range(blocks):
                probability = stochastic_depth_prob * done / total
                stage.append(_MBConv(expansion, kernel, first if i == 0 else 1, channels, outputs, probability))
                channels, done = outputs, done + 1
            self.features.append(stage)
        self.features.append(ConvNormActivation(channels, 4 * channels, 1, activation_layer=nn.SiLU))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(4 * channels, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.out_features)
                nn.init.uniform_(module.weight, -bound, bound)
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


def efficientnet_b0(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B0: 5.3 M parameters, 77.7% of ImageNet with its published weights. Options: see `EfficientNet`."""
    return with_weights("efficientnet_b0", EfficientNet, weights, progress, kwargs)
