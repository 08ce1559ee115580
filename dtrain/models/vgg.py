"""Plain stacks of 3x3 convolutions. Simonyan and Zisserman, arXiv:1409.1556."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtrain import nn
from dtrain.autograd import Tensor
from dtrain.models.published import with_weights

__all__ = ["VGG", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"]

#: Convolutions in each of the five stages of a network with so many layers.
_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def _features(stages: Sequence[int], batch_norm: bool) -> nn.Sequential:
    layers, inputs = nn.Sequential(), 3
    for stage, convolutions in enumerate(stages):
        outputs = min(64 << stage, 512)
        for _ in range(convolutions):
            layers.append(nn.Conv2d(inputs, outputs, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(outputs))
            layers.append(nn.ReLU(inplace=True))
            inputs = outputs
        layers.append(nn.MaxPool2d(2, stride=2))
    return layers


class VGG(nn.Module):
    """`features`, then three linear layers.  (N, 3, H, W), H and W at least 32 -> (N, num_classes)

    features: a module that makes (N, 512, h, w); the functions below choose it. init_weights: draw the weights as
    torchvision does, or leave PyTorch's defaults. dropout: the probability before the second and third linear layer.
    """

    def __init__(
        self, features: nn.Module, num_classes: int = 1000, init_weights: bool = True, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096), nn.ReLU(inplace=True), nn.Dropout(dropout),
            nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(dropout),
            nn.Linear(4096, num_classes),
        )  # fmt: skip
        for module in self.modules() if init_weights else ():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def _vgg(name: str, weights: str | bool | None, progress: bool, options: dict[str, Any]) -> VGG:
    layers, batch_norm = int(name[3:5]), name.endswith("_bn")

    def make(**given: Any) -> VGG:
        return VGG(_features(_STAGES[layers], batch_norm), **given)

    return with_weights(name, make, weights, progress, options)


def vgg11(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-11: 132.9 M parameters, 69.0% of ImageNet with its published weights. Options: see `VGG`."""
    return _vgg("vgg11", weights, progress, kwargs)


def vgg11_bn(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-11 with BatchNorm: 132.9 M parameters, 70.4% of ImageNet with its published weights. Options: see `VGG`."""
    return _vgg("vgg11_bn", weights, progress, kwargs)


def vgg13(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-13: 133.0 M parameters, 69.9% of ImageNet with its published weights. Options: see `VGG`."""
    return _vgg("vgg13", weights, progress, kwargs)


def vgg13_bn(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-13 with BatchNorm: 133.1 M parameters, 71.6% of ImageNet with its published weights. Options: see `VGG`."""
    return _vgg("vgg13_bn", weights, progress, kwargs)


def vgg16(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-16: 138.4 M parameters, 71.6% of ImageNet with its published weights. Options: see `VGG`."""
    return _vgg("vgg16", weights, progress, kwargs)


def vgg16_bn(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-16 with BatchNorm: 138.4 M parameters, 73.4% of ImageNet with its published weights. Options: see `VGG`."""
    return _vgg("vgg16_bn", weights, progress, kwargs)


def vgg19(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-19: 143.7 M parameters, 72.4% of ImageNet with its published weights. Options: see `VGG`."""
    return _vgg("vgg19", weights, progress, kwargs)


def vgg19_bn(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-19 with BatchNorm: 143.7 M parameters, 74.2% of ImageNet with its published weights. Options: see `VGG`."""
    return _vgg("vgg19_bn", weights, progress, kwargs)
