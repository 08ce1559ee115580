"""SqueezeNet. Iandola et al., arXiv:1602.07360."""

from __future__ import annotations

from functools import partial
from typing import Any

from dtrain import nn
from dtrain.autograd import Tensor
from dtrain.models.published import with_weights
from dtrain.ops.shape import cat

__all__ = ["SqueezeNet", "squeezenet1_0", "squeezenet1_1"]

#: Channels after squeezing, and after each of the two expansions; None is a max pool.
_FIRES: dict[str, tuple[tuple[int, int] | None, ...]] = {
    "1_0": (None, (16, 64), (16, 64), (32, 128), None, (32, 128), (48, 192), (48, 192), (64, 256), None, (64, 256)),
    "1_1": (None, (16, 64), (16, 64), None, (32, 128), (32, 128), None, (48, 192), (48, 192), (64, 256), (64, 256)),
}


class _Fire(nn.Module):
    """1x1 to few channels, then 1x1 and 3x3 side by side.  (N, inputs, H, W) -> (N, 2 expand, H, W)"""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        narrow, wide = self.expand1x1(x), self.expand3x3(x)
        return cat([self.expand1x1_activation(narrow), self.expand3x3_activation(wide)], 1)


class SqueezeNet(nn.Module):
    """Fire modules between two convolutions, without linear layers.  (N, 3, H, W) -> (N, num_classes)

    version: "1_0" or "1_1", which needs less than half of the arithmetic. dropout: the probability before the last
    convolution. Raises ValueError for other versions.
    """

    def __init__(self, version: str = "1_0", num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        if version not in _FIRES:
            raise ValueError(f"SqueezeNet has the versions {', '.join(_FIRES)}, got {version!r}")
        first = nn.Conv2d(3, 96, 7, stride=2) if version == "1_0" else nn.Conv2d(3, 64, 3, stride=2)
        self.features, channels = nn.Sequential(first, nn.ReLU(inplace=True)), first.out_channels
        for fire in _FIRES[version]:
            if fire is None:
                self.features.append(nn.MaxPool2d(3, stride=2, ceil_mode=True))
            else:
                self.features.append(_Fire(channels, *fire))
                channels = 2 * fire[1]
        last = nn.Conv2d(channels, num_classes, 1)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), last, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1))
        )  # fmt: skip
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if module is last:
                    nn.init.normal_(module.weight, 0, 0.01)
                else:
                    nn.init.kaiming_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x)).flatten(1)


def squeezenet1_0(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> SqueezeNet:
    """SqueezeNet 1.0: 1.2 M parameters, 58.1% of ImageNet with its published weights. Options: see `SqueezeNet`."""
    return with_weights("squeezenet1_0", partial(SqueezeNet, "1_0"), weights, progress, kwargs)


def squeezenet1_1(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> SqueezeNet:
    """SqueezeNet 1.1: 1.2 M parameters, 58.2% of ImageNet with its published weights. Options: see `SqueezeNet`."""
    return with_weights("squeezenet1_1", partial(SqueezeNet, "1_1"), weights, progress, kwargs)
