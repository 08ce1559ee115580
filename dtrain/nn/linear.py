"""Products with a matrix of weights."""

from __future__ import annotations

import math
from typing import Any

from dtrain.autograd import Tensor
from dtrain.nn import init
from dtrain.nn.module import Module
from dtrain.nn.parameter import Parameter
from dtrain.ops.creation import empty
from dtrain.ops.linear import bilinear, linear

__all__ = ["Bilinear", "Identity", "Linear", "init_like_linear"]


def init_like_linear(weight: Parameter, bias: Parameter | None) -> None:
    """PyTorch's default: both uniform on [-1 / sqrt(fan_in), 1 / sqrt(fan_in))."""
    init.kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is not None:
        bound = 1 / math.sqrt(init.fans(weight)[0]) if init.fans(weight)[0] else 0.0
        init.uniform_(bias, -bound, bound)


class Identity(Module):
    """The input itself. Arguments are accepted and ignored, so that it can stand in for any layer.  (*) -> the same

    Raises nothing.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return input


class Linear(Module):
    """y = x W^T + b.  x: (..., in_features) -> (..., out_features)

    weight: (out_features, in_features), bias: (out_features,); both start uniform on [-1 / sqrt(in_features), 1 /
    sqrt(in_features)). bias=False leaves b out. Raises ValueError for another last dimension, TypeError for another
    dtype than that of the weight.
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
        init_like_linear(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Bilinear(Module):
    """y = x1^T A x2 + b, one matrix A for each output.  x1: (..., in1_features), x2: (..., in2_features) -> (..., out)

    weight: (out_features, in1_features, in2_features), bias: (out_features,), both at first uniform on
    [-1 / sqrt(in1_features), 1 / sqrt(in1_features)). Raises ValueError for in1_features below 1.
    """

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if in1_features <= 0:
            raise ValueError(f"Bilinear: in1_features must be positive, got {in1_features}")
        self.in1_features, self.in2_features, self.out_features = in1_features, in2_features, out_features
        self.weight = Parameter(empty(out_features, in1_features, in2_features, device=device, dtype=dtype))
        self.bias = Parameter(empty(out_features, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights again."""
        bound = 1 / math.sqrt(self.in1_features)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        return bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )
