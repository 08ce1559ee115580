"""DenseNet. Huang et al., "Densely connected convolutional networks", arXiv:1608.06993."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dtrain import nn
from dtrain.autograd import Tensor
from dtrain.models.published import rename_keys, with_weights
from dtrain.nn import functional as F
from dtrain.ops.shape import cat

__all__ = ["DenseNet", "densenet121"]


class _DenseLayer(nn.Module):
    """`growth` more channels from all before: norm, relu, 1x1, norm, relu, 3x3.  (N, C, H, W) -> (N, growth, H, W)"""

    def __init__(self, inputs: int, growth: int, bn_size: int, drop_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, bn_size * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(bn_size * growth)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(bn_size * growth, growth, 3, padding=1, bias=False)
        self.drop_rate = drop_rate

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.relu1(self.norm1(x)))
        y = self.conv2(self.relu2(self.norm2(y)))
        return F.dropout(y, self.drop_rate, self.training)


class _DenseBlock(nn.Module):
    """Layers, each of which sees what all before it have made.  (N, C, H, W) -> (N, C + layers * growth, H, W)"""

    def __init__(self, layers: int, inputs: int, growth: int, bn_size: int, drop_rate: float) -> None:
        super().__init__()
        for i in range(layers):
            self.add_module(f"denselayer{i + 1}", _DenseLayer(inputs + i * growth, growth, bn_size, drop_rate))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = cat([x, layer(x)], 1)
        return x


class DenseNet(nn.Module):
    """Dense blocks with transitions, which halve size and channels, between them.  (N, 3, H, W) -> (N, num_classes)

    growth_rate: channels that each layer adds. block_config: layers of each block. num_init_features: channels of the
    first convolution. bn_size: the 1x1 convolutions make so many times growth_rate channels. drop_rate: dropout of what
    each layer adds. memory_efficient is accepted and has nothing to do. Keys of torchvision's older files load as well.
    """

    def __init__(
        self,
        growth_rate: int = 32,
        block_config: Sequence[int] = (6, 12, 24, 16),
        num_init_features: int = 64,
        bn_size: int = 4,
        drop_rate: float = 0,
        num_classes: int = 1000,
        memory_efficient: bool = False,
    ) -> None:
        super().__init__()
        channels = num_init_features
        self.features = nn.Sequential(
            {
                "conv0": nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False),
                "norm0": nn.BatchNorm2d(channels),
                "relu0": nn.ReLU(inplace=True),
                "pool0": nn.MaxPool2d(3, stride=2, padding=1),
            }
        )
        for i, layers in enumerate(block_config, 1):
            block = _DenseBlock(layers, channels, growth_rate, bn_size, drop_rate)
            self.features.add_module(f"denseblock{i}", block)
            channels += layers * growth_rate
            if i < len(block_config):
                transition = {
                    "norm": nn.BatchNorm2d(channels),
                    "relu": nn.ReLU(inplace=True),
                    "conv": nn.Conv2d(channels, channels // 2, 1, bias=False),
                    "pool": nn.AvgPool2d(2, stride=2),
                }
                self.features.add_module(f"transition{i}", nn.Sequential(transition))
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        if self.classifier.bias is not None:
            nn.init.zeros_(self.classifier.bias)
        self.register_load_state_dict_pre_hook(_keys_of_today)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.adaptive_avg_pool2d(F.relu(self.features(x)), 1).flatten(1))


def _keys_of_today(module: nn.Module, state: Any, prefix: str, *_: Any) -> None:
    """denselayer1.norm.1.weight, as older files have it, is denselayer1.norm1.weight."""
    rename_keys(state, prefix, lambda key: re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.(?=[12]\.)", r"\1", key))


def densenet121(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> DenseNet:
    """DenseNet-121: 8.0 M parameters, 74.4% of ImageNet with its published weights. Options: see `DenseNet`."""
    return with_weights("densenet121", DenseNet, weights, progress, kwargs)
