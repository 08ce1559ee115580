"""Norms over groups of channels, instances and neighbours: made of ops that can be differentiated again."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, as_one_call, constant
from dtrain.ops.creation import zeros
from dtrain.ops.norm import layer_norm
from dtrain.ops.shape import cat, reshape

__all__ = ["group_norm", "instance_norm", "local_response_norm"]


def _scaled(x: Any, weight: Any, bias: Any) -> Any:
    """x * weight + bias per channel, the second dimension."""
    wide = (-1,) + (1,) * (x.ndim - 2)
    if weight is not None:
        x = x * reshape(weight, wide)
    return x if bias is None else x + reshape(bias, wide)


def group_norm(input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """(x - mean) / sqrt(var + eps) over groups of channels, * weight + bias per channel.  (N, C, ...) -> the same

    Wu and He, arXiv:1803.08494. Raises ValueError where the groups do not divide the channels, or weights do not fit.
    """
    if input.ndim < 2 or num_groups < 1 or input.shape[1] % num_groups:
        raise ValueError(f"group_norm: {num_groups} groups do not divide the channels of shape {input.shape}")
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and t.shape != (input.shape[1],):
            raise ValueError(f"group_norm: the {name} has shape {t.shape}, it must be ({input.shape[1]},)")
    n = input.shape[0]
    if not input.array.size:
        return _scaled(input * 1, weight, bias)
    x = reshape(input, n, num_groups, -1)
    y = layer_norm(x, x.shape[2], None, None, eps)
    return _scaled(reshape(y, input.shape), weight, bias)


def instance_norm(
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """(x - mean) / sqrt(var + eps) per sample and channel, * weight + bias per channel.  (N, C, L, ...) -> the same

    Ulyanov, Vedaldi and Lempitsky, arXiv:1607.08022. Running statistics move towards the means over the batch by
    momentum; without use_input_stats they are what x is normalised with. Raises ValueError for a single element.
    """
    if input.ndim < 3:
        raise ValueError(f"instance_norm needs an input of shape (N, C, L, ...), got {input.shape}")
    axes = tuple(range(2, input.ndim))
    count = math.prod(input.shape[2:])
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise ValueError("instance_norm needs running statistics where use_input_stats is False")
        wide = (-1,) + (1,) * (input.ndim - 2)
        y = (input - reshape(running_mean, wide)) / (reshape(running_var, wide) + eps).sqrt()
        return _scaled(y, weight, bias)
    if count == 1:
        raise ValueError(f"instance_norm: one element per channel has no variance, got shape {input.shape}")
    mean = input.mean(axes, keepdim=True)
    centred = input - mean
    variance = (centred * centred).mean(axes, keepdim=True)
    if running_mean is not None and len(input):
        _track(running_mean, running_var, momentum, mean, variance, count / (count - 1))
    return _scaled(centred / (variance + eps).sqrt(), weight, bias)


@as_one_call
def _track(
    running_mean: Tensor, running_var: Any, momentum: float, mean: Tensor, variance: Tensor, unbiased: float
) -> None:
    """The running statistics move to the means, over samples, of these (N, C, 1, ...)."""
    for running, value in ((running_mean, mean.array), (running_var, variance.array * unbiased)):
        running.array[...] += momentum * (value.reshape(value.shape[:2]).mean(0) - running.array)


def local_response_norm(input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Any:
    """x / (k + alpha mean of x^2 over `size` neighbouring channels)^beta (Krizhevsky et al., 2012). (N, C, L, ...)

    Raises ValueError for fewer than 3 dimensions and size < 1.
    """
    if input.ndim < 3:
        raise ValueError(f"local_response_norm needs an input of shape (N, C, L, ...), got {input.shape}")
    if size < 1:
        raise ValueError(f"local_response_norm: size must be at least 1, got {size}")
    if not input.array.size:
        return input
    square = input * input
    before, behind = (zeros(len(input), n, *input.shape[2:], dtype=input.dtype) for n in (size // 2, (size - 1) // 2))
    padded = cat([before, square, behind], 1)
    total: Any = constant(np.zeros((), input.dtype))
    for i in range(size):
        total = total + padded[:, i : i + input.shape[1]]
    return input / (k + alpha / size * total) ** beta
