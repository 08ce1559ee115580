"""Residual networks. He et al., "Deep residual learning for image recognition", arXiv:1512.03385."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dtrain import nn
from dtrain.autograd import Tensor
from dtrain.models.published import with_weights

__all__ = ["ResNet", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]


def _conv3x3(inputs: int, outputs: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, groups=groups, bias=False
    )  # fmt: skip


class _Basic(nn.Module):
    """relu(x + bn(conv3x3(relu(bn(conv3x3(x))))));  (N, inputs, H, W) -> (N, planes, H / stride, W / stride)"""

    expansion = 1

    def __init__(
        self, inputs: int, planes: int, stride: int, downsample: nn.Module | None, groups: int, width: int,
        dilation: int, norm: Callable[[int], nn.Module],
    ) -> None:  # fmt: skip
        super().__init__()
        if groups != 1 or width != planes or dilation != 1:
            raise ValueError(
                f"the blocks of resnet18 and resnet34 have one group, no extra width and no dilation; got {groups} "
                f"groups, {width} channels for {planes}, dilation {dilation}; take resnet50 or a larger one"
            )
        self.conv1 = _conv3x3(inputs, planes, stride)
        self.bn1 = norm(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(planes, planes)
        self.bn2 = norm(planes)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class _Bottleneck(nn.Module):
    """As `_Basic`, with 1x1, 3x3 and 1x1 convolutions;  (N, inputs, H, W) -> (N, 4 planes, H / stride, W / stride)

    The stride is the 3x3 convolution's ("ResNet V1.5").
    """

    expansion = 4

    def __init__(
        self, inputs: int, planes: int, stride: int, downsample: nn.Module | None, groups: int, width: int,
        dilation: int, norm: Callable[[int], nn.Module],
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = _conv3x3(width, width, stride, groups, dilation)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, planes * self.expansion, 1, bias=False)
        self.bn3 = norm(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A residual network of `layers` blocks in each of four stages.  (N, 3, H, W) -> (N, num_classes)

    block: of the functions below. zero_init_residual: each branch begins as zero. groups, width_per_group: of the 3x3
    convolutions in bottlenecks (ResNeXt, wide ResNets). replace_stride_with_dilation: for stages 2 to 4, whether the
    resolution stays and the convolutions are dilated instead. norm_layer: of a number of channels, nn.BatchNorm2d.
    Raises ValueError for options that the block does not have.
    """

    def __init__(
        self,
        block: type[_Basic] | type[_Bottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        zero_init_residual: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        replace_stride_with_dilation: Sequence[bool] | None = None,
        norm_layer: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        dilate = (False, *(replace_stride_with_dilation or (False, False, False)))
        if len(dilate) != 4:
            raise ValueError(
                f"replace_stride_with_dilation is None or three truth values, got {replace_stride_with_dilation}"
            )
        norm = norm_layer or nn.BatchNorm2d
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs, dilation = 64, 1
        for stage, blocks in enumerate(layers):
            planes, stride, before = 64 << stage, 1 if stage == 0 else 2, dilation
            if dilate[stage]:
                dilation, stride = dilation * stride, 1
            width = planes * width_per_group // 64 * groups
            outputs, made = planes * block.expansion, nn.Sequential()
            for i in range(blocks):
                downsample = None
                if i == 0 and (stride != 1 or inputs != outputs):
                    downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))
                made.append(
                    block(
                        inputs, planes, stride if i == 0 else 1, downsample, groups, width,
                        before if i == 0 else dilation, norm,
                    )
                )  # fmt: skip
                inputs = outputs
            setattr(self, f"layer{stage + 1}", made)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, (_Basic, _Bottleneck)):
                last: Any = module.bn2 if isinstance(module, _Basic) else module.bn3
                nn.init.zeros_(last.weight)

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def resnet18(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """ResNet-18: 11.7 M parameters, 69.8% of ImageNet with its published weights. Options: see `ResNet`."""
    return with_weights("resnet18", partial(ResNet, _Basic, (2, 2, 2, 2)), weights, progress, kwargs)


def resnet34(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """ResNet-34: 21.8 M parameters, 73.3% of ImageNet with its published weights. Options: see `ResNet`."""
    return with_weights("resnet34", partial(ResNet, _Basic, (3, 4, 6, 3)), weights, progress, kwargs)


def resnet50(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """ResNet-50: 25.6 M parameters, 76.1% of ImageNet with its first published weights. Options: see `ResNet`."""
    return with_weights("resnet50", partial(ResNet, _Bottleneck, (3, 4, 6, 3)), weights, progress, kwargs)


def resnet101(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """ResNet-101: 44.5 M parameters, 77.4% of ImageNet with its first published weights. Options: see `ResNet`."""
    return with_weights("resnet101", partial(ResNet, _Bottleneck, (3, 4, 23, 3)), weights, progress, kwargs)


def resnet152(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """ResNet-152: 60.2 M parameters, 78.3% of ImageNet with its first published weights. Options: see `ResNet`."""
    return with_weights("resnet152", partial(ResNet, _Bottleneck, (3, 8, 36, 3)), weights, progress, kwargs)
