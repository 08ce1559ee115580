"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, as_one_call
from dtrain.backend import Array
from dtrain.nn.module import Module
from dtrain.nn.parameter import Parameter
from dtrain.ops.creation import ones, zeros
from dtrain.ops.norm import batch_norm, layer_norm, sync_batch_norm

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "LayerNorm", "SyncBatchNorm"]


class _BatchNorm(Module):
    dimensions: tuple[int, ...] = ()  # of inputs; none: any from 2 on

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        made = {"device": device, "dtype": dtype}
        self.weight = Parameter(ones(num_features, **made)) if affine else None
        self.bias = Parameter(zeros(num_features, **made)) if affine and bias else None
        kept = track_running_stats
        self.register_buffer("running_mean", zeros(num_features, **made) if kept else None)
        self.register_buffer("running_var", ones(num_features, **made) if kept else None)
        self.register_buffer("num_batches_tracked", zeros((), dtype=np.int64) if kept else None)

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        momentum = self._begin(input)
        of_batch = self.training or self.running_mean is None
        return batch_norm(
            input, self.weight, self.bias, self.running_mean, self.running_var, of_batch, momentum, self.eps
        )

    def _begin(self, input: Tensor) -> float:  # noqa: A002
        """Check the input, count the batch, and return the momentum to use."""
        if input.ndim < 2 or (self.dimensions and input.ndim not in self.dimensions):
            expected = self.dimensions or "at least 2"
            raise ValueError(f"{type(self).__name__} takes inputs of {expected} dimensions, got shape {input.shape}")
        if not (self.training and self.num_batches_tracked is not None):
            return self.momentum or 0.0
        _count(self.num_batches_tracked)
        # None: the plain average over all batches.
        return 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


@as_one_call
def _count(batches: Tensor) -> None:
    batches.array += 1


class BatchNorm1d(_BatchNorm):
    """(x - mean) / sqrt(var + eps) * weight + bias per feature.  (N, C) or (N, C, L) -> the same

    weight, bias: (num_features,), at first 1 and 0. In training mean and var are those of the batch (of the microbatch,
    under DistributedDataParallel), and the running statistics, used in evaluation, move to them by `momentum` (None:
    their plain average). Ioffe and Szegedy, arXiv:1502.03167. Raises ValueError for other dimensions or channels, and
    in training for one value per channel.
    """

    dimensions = (2, 3)


class BatchNorm2d(_BatchNorm):
    """(x - mean) / sqrt(var + eps) * weight + bias per channel.  (N, C, H, W) -> the same

    weight, bias: (num_features,), at first 1 and 0. In training mean and var are those of the batch (of the microbatch,
    under DistributedDataParallel), and the running statistics, used in evaluation, move to them by `momentum` (None:
    their plain average). Ioffe and Szegedy, arXiv:1502.03167. Raises ValueError for other dimensions or channels, and
    in training for one value per channel.
    """

    dimensions = (4,)


class BatchNorm3d(_BatchNorm):
    """`BatchNorm2d` for (N, C, D, H, W) -> the same. Raises as it does: ValueError."""

    dimensions = (5,)


class SyncBatchNorm(_BatchNorm):
    """BatchNorm over the global batch.  (N, C, ...) -> the same; N may be 0

    (x - mean) / sqrt(var + eps) * weight + bias per channel, and in training under DistributedDataParallel mean
    and var are those of all microbatches of the step, on all ranks: what BatchNorm would do with the whole batch in
    one piece. Everywhere else it is BatchNorm. The state dict has BatchNorm's keys.

    Because microbatches then depend on each other, a rank that has several runs their forward passes together
    when the model is called with the first, and their backward passes after the last `backward()`. For
    this the model's inputs must come from the DataLoader untouched: transforms belong into the data set or the model.

    process_group: None; the statistics are those of all ranks. Raises ValueError for anything else, and for one value
    per channel in the microbatches of a step together.
    """

    #: Set by DistributedDataParallel while it calls the model: a row of numbers in, those of all microbatches out.
    gather: Callable[[Array], Array] | None = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        _check_group(process_group)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if self.gather is None or not self.training:
            return super().forward(input)
        momentum = self._begin(input)
        return sync_batch_norm(
            input, self.weight, self.bias, self.running_mean, self.running_var, momentum, self.eps, self.gather
        )

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: Any = None) -> Any:
        """The module with every BatchNorm in it, at whatever depth, replaced by a SyncBatchNorm.

        Parameters, buffers (the same tensors) and options are kept. A module that is a BatchNorm itself is
        returned as a new one. To be called before DistributedDataParallel is.
        """
        _check_group(process_group)
        return cls._converted(module, {})

    @classmethod
    def _converted(cls, module: Module, made: dict[int, Module]) -> Module:
        if id(module) not in made:
            made[id(module)] = module
            if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
                twin = made[id(module)] = cls.__new__(cls)
                twin.__dict__.update(module.__getstate__())
            for name, child in list(module.__dict__.items()):
                if isinstance(child, Module):
                    setattr(made[id(module)], name, cls._converted(child, made))
        return made[id(module)]


def _check_group(process_group: Any) -> None:
    if process_group is not None:
        raise ValueError(
            f"SyncBatchNorm takes its statistics over all ranks; process_group must be None, got {process_group!r}"
        )


class LayerNorm(Module):
    """(x - mean) / sqrt(var + eps) * weight + bias over the last dimensions.  (..., *normalized_shape) -> the same

    weight, bias: normalized_shape, at first 1 and 0; left out with elementwise_affine=False or bias=False. Ba, Kiros
    and Hinton, arXiv:1607.06450. Raises ValueError for an input whose last dimensions are others.
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
        self.eps, self.elementwise_affine = eps, elementwise_affine
        made = {"device": device, "dtype": dtype}
        self.weight = Parameter(ones(self.normalized_shape, **made)) if elementwise_affine else None
        self.bias = Parameter(zeros(self.normalized_shape, **made)) if elementwise_affine and bias else None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )
