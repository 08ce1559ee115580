"""Normalisation layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.autograd import Tensor
from dtrain.nn.module import Module
from dtrain.nn.parameter import Parameter
from dtrain.ops.creation import ones, zeros
from dtrain.ops.norm import batch_norm, layer_norm

__all__ = ["BatchNorm1d", "BatchNorm2d", "LayerNorm"]


class _BatchNorm(Module):
    dimensions: tuple[int, ...]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        made = {"device": device, "dtype": dtype}
        self.weight = Parameter(ones(num_features, **made)) if affine else None
        self.bias = Parameter(zeros(num_features, **made)) if affine else None
        kept = track_running_stats
        self.register_buffer("running_mean", zeros(num_features, **made) if kept else None)
        self.register_buffer("running_var", ones(num_features, **made) if kept else None)
        self.register_buffer("num_batches_tracked", zeros((), dtype=np.int64) if kept else None)

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if input.ndim not in self.dimensions:
            raise ValueError(
                f"{type(self).__name__} takes inputs of {self.dimensions} dimensions, got shape {input.shape}"
            )
        momentum = self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.array += 1
            if momentum is None:  # the plain average over all batches
                momentum = 1 / self.num_batches_tracked.item()
        return batch_norm(
            input,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            self.training or self.running_mean is None,
            momentum if momentum is not None else 0.0,
            self.eps,
        )

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}"


class BatchNorm1d(_BatchNorm):
    """(x - mean) / sqrt(var + eps) * weight + bias per feature.  (N, C) or (N, C, L) -> the same

    weight, bias: (num_features,), at first 1 and 0. In training mean and var are those of the batch
    (of the microbatch, under DistributedDataParallel), and the running statistics, used in evaluation,
    move to them by `momentum` (None: their plain average). Ioffe and Szegedy, arXiv:1502.03167.
    """

    dimensions = (2, 3)


class BatchNorm2d(_BatchNorm):
    """(x - mean) / sqrt(var + eps) * weight + bias per channel.  (N, C, H, W) -> the same

    weight, bias: (num_features,), at first 1 and 0. In training mean and var are those of the batch
    (of the microbatch, under DistributedDataParallel), and the running statistics, used in evaluation,
    move to them by `momentum` (None: their plain average). Ioffe and Szegedy, arXiv:1502.03167.
    """

    dimensions = (4,)


class LayerNorm(Module):
    """(x - mean) / sqrt(var + eps) * weight + bias over the last dimensions.  (..., *normalized_shape) -> the same

    weight, bias: normalized_shape, at first 1 and 0; left out with elementwise_affine=False or bias=False.
    Ba, Kiros and Hinton, arXiv:1607.06450.
    """

    def __init__(
        self,
        normalized_shape: Any,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        made = {"device": device, "dtype": dtype}
        self.weight = Parameter(ones(self.normalized_shape, **made)) if elementwise_affine else None
        self.bias = Parameter(zeros(self.normalized_shape, **made)) if elementwise_affine and bias else None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"
