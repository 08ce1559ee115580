"""Norms over groups of channels, instances and neighbours as layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.autograd import Tensor
from dtrain.nn.module import Module
from dtrain.nn.parameter import Parameter
from dtrain.ops.creation import ones, zeros
from dtrain.ops.group_norm import group_norm, instance_norm, local_response_norm
from dtrain.ops.norm import rms_norm
from dtrain.ops.shape import squeeze, unsqueeze

__all__ = [
    "CrossMapLRN2d", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "LocalResponseNorm", "RMSNorm",
]  # fmt: skip


class GroupNorm(Module):
    """(x - mean) / sqrt(var + eps) over groups of channels, * weight + bias.  (N, C, ...) -> the same

    weight, bias: (num_channels,), at first 1 and 0, with affine. Wu and He, arXiv:1803.08494. Raises ValueError where
    num_groups does not divide num_channels.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_channels % num_groups:
            raise ValueError(f"GroupNorm: {num_groups} groups do not divide {num_channels} channels")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self.weight = Parameter(ones(num_channels, dtype=dtype)) if affine else None
        self.bias = Parameter(zeros(num_channels, dtype=dtype)) if affine and bias else None

    def forward(self, input: Tensor) -> Tensor:
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class _InstanceNorm(Module):
    dimensions = 0

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight = Parameter(ones(num_features, dtype=dtype)) if affine else None
        self.bias = Parameter(zeros(num_features, dtype=dtype)) if affine and bias else None
        self.register_buffer("running_mean", zeros(num_features, dtype=dtype) if track_running_stats else None)
        self.register_buffer("running_var", ones(num_features, dtype=dtype) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", Tensor(np.asarray(0)) if track_running_stats else None)

    running_mean: Tensor | None
    running_var: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        n, name = self.dimensions, type(self).__name__
        if input.ndim not in (n, n + 1) or self.affine and input.shape[input.ndim - n] != self.num_features:
            raise ValueError(
                f"{name} with {self.num_features} features takes {n + 1} dimensions, or {n} without a batch; got shape "
                f"{input.shape}"
            )
        x = unsqueeze(input, 0) if input.ndim == n else input
        y = instance_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias,
            self.training or not self.track_running_stats, self.momentum, self.eps,
        )  # fmt: skip
        return squeeze(y, 0) if input.ndim == n else y

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class InstanceNorm1d(_InstanceNorm):
    """(x - mean) / sqrt(var + eps) per sample and channel.  (N, C, L) or (C, L) -> the same

    weight and bias, at first 1 and 0, with affine; running statistics only with track_running_stats. Ulyanov et al.,
    arXiv:1607.08022. Raises ValueError for other dimensions or channels, and for one element per channel.
    """

    dimensions = 2


class InstanceNorm2d(_InstanceNorm):
    """`InstanceNorm1d` for (N, C, H, W) or (C, H, W) -> the same. Raises as it does: ValueError."""

    dimensions = 3


class InstanceNorm3d(_InstanceNorm):
    """`InstanceNorm1d` for (N, C, D, H, W) or (C, D, H, W) -> the same. Raises as it does: ValueError."""

    dimensions = 4


class RMSNorm(Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimensions (Zhang and Sennrich, arXiv:1910.07467).

    weight: normalized_shape, at first 1, with elementwise_affine. eps: the dtype's machine epsilon unless given. Raises
    ValueError for an input whose last dimensions are others.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        self.weight = Parameter(ones(*shape, dtype=dtype)) if elementwise_affine else None

    def forward(self, input: Tensor) -> Tensor:
        return rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class LocalResponseNorm(Module):
    """x / (k + alpha mean of x^2 over `size` neighbouring channels)^beta (Krizhevsky et al., NIPS 2012).

    (N, C, L, ...) -> the same. Raises ValueError for fewer than 3 dimensions and size < 1.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, input: Tensor) -> Tensor:
        return local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class CrossMapLRN2d(LocalResponseNorm):
    """x / (k + alpha / size * sum of x^2 over neighbouring channels)^beta.  (N, C, H, W) -> the same

    The neighbours are (size - 1) // 2 channels on either side: for an odd size that is LocalResponseNorm. (PyTorch's
    code counts the first channel as a neighbour of all that follow, which its documentation does not say; here it is
    not.) Raises ValueError for inputs of another number of dimensions.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1) -> None:
        super().__init__(size, alpha, beta, k)

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim != 4:
            raise ValueError(f"CrossMapLRN2d takes inputs of shape (N, C, H, W), got {input.shape}")
        wide = 2 * ((self.size - 1) // 2) + 1
        return local_response_norm(input, wide, self.alpha * wide / self.size, self.beta, self.k)
