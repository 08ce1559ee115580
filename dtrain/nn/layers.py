"""Layers with weights."""

from __future__ import annotations

import math
from typing import Any

from dtrain.autograd import Tensor
from dtrain.nn import init
from dtrain.nn.module import Module
from dtrain.nn.parameter import Parameter
from dtrain.ops.conv import conv2d, pair
from dtrain.ops.creation import empty
from dtrain.ops.embedding import embedding
from dtrain.ops.linear import linear

__all__ = ["Conv2d", "Embedding", "Linear"]


def _init_like_linear(weight: Parameter, bias: Parameter | None) -> None:
    """PyTorch's default: both uniform on [-1 / sqrt(fan_in), 1 / sqrt(fan_in))."""
    init.kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is not None:
        bound = 1 / math.sqrt(init.fans(weight)[0]) if init.fans(weight)[0] else 0.0
        init.uniform_(bias, -bound, bound)


class Linear(Module):
    """y = x W^T + b.  x: (..., in_features) -> (..., out_features)

    weight: (out_features, in_features), bias: (out_features,); both start uniform on
    [-1 / sqrt(in_features), 1 / sqrt(in_features)). bias=False leaves b out.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(empty(out_features, in_features, device=device, dtype=dtype))
        self.bias = Parameter(empty(out_features, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights again."""
        _init_like_linear(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Conv2d(Module):
    """Cross-correlation of images.  (N, in_channels, H, W) -> (N, out_channels, OH, OW)

    OH = (H + 2 padding - dilation (kernel - 1) - 1) // stride + 1. weight: (out_channels,
    in_channels / groups, KH, KW), bias: (out_channels,); both start uniform on [-1 / sqrt(n),
    1 / sqrt(n)), n = in_channels / groups * KH * KW. Padding is with zeros.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair("kernel_size", kernel_size, 1)
        self.stride, self.dilation = pair("stride", stride, 1), pair("dilation", dilation, 1)
        self.padding = padding if isinstance(padding, str) else pair("padding", padding, 0)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = Parameter(empty(shape, device=device, dtype=dtype))
        self.bias = Parameter(empty(out_channels, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights again."""
        _init_like_linear(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, groups={self.groups}, bias={self.bias is not None}"
        )


class Embedding(Module):
    """A table of vectors looked up by number.  (...) of ints -> (..., embedding_dim)

    weight: (num_embeddings, embedding_dim), normal with variance 1; the row padding_idx is zero and stays so.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(f"padding_idx {padding_idx} is no row of a table of {num_embeddings}")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        self.weight = Parameter(empty(num_embeddings, embedding_dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial vectors again."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight.array[self.padding_idx] = 0

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return embedding(input, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"
