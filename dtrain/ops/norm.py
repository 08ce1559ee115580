"""Normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dtrain.autograd import Joint, op
from dtrain.backend import Array, backend_of

__all__ = ["batch_norm", "layer_norm"]


@op
def batch_norm(
    input: Any,  # noqa: A002
    weight: Any,
    bias: Any,
    running_mean: Any = None,
    running_var: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """(x - mean) / sqrt(var + eps) * weight + bias, per channel. input: (N, C, ...), the others (C,) or None

    Ioffe and Szegedy, arXiv:1502.03167. In training (or without running statistics) mean and the
    biased var are those of the input, and running = (1 - momentum) * running + momentum * statistic
    is written in place, with the unbiased var. An input without samples leaves the statistics alone.
    Raises ValueError where training sees a single value per channel, which has no variance.
    """
    x = input
    if x.ndim < 2 or any(p is not None and p.shape != x.shape[1:2] for p in (weight, bias, running_mean, running_var)):
        raise ValueError(
            f"batch_norm: input of shape {x.shape} does not fit parameters and statistics of shapes "
            f"{[p.shape for p in (weight, bias, running_mean, running_var) if p is not None]}"
        )
    count = x.size // x.shape[1] if x.shape[1] else 0
    of_batch = training or running_mean is None or running_var is None
    if training and count == 1:
        raise ValueError(
            f"batch_norm in training needs more than one value per channel, got input of shape {x.shape}; "
            "use a larger batch, fewer microbatches, drop_last=True or nn.SyncBatchNorm"
        )
    mean, var = (None, None) if of_batch else (running_mean, running_var)
    kernels = backend_of(x)
    y, mean, var, normal, scale = kernels.batch_norm(x, weight, bias, mean, var, eps)
    if training and count and running_mean is not None:
        running_mean *= 1 - momentum
        running_mean += momentum * mean
    if training and count and running_var is not None:
        running_var *= 1 - momentum
        running_var += (momentum * count / (count - 1)) * var

    def pullback(g: Array, needs: Sequence[bool]) -> list[Array | None]:
        return kernels.batch_norm_grad(g, normal, scale, weight, of_batch, needs)

    return y, Joint(pullback)


@op
def layer_norm(
    input: Any,  # noqa: A002
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Any:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last dimensions, which are normalized_shape.

    Ba, Kiros and Hinton, arXiv:1607.06450. weight, bias: normalized_shape or None.
    Raises ValueError where the shapes do not end alike.
    """
    x = input
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or x.shape[x.ndim - len(shape) :] != shape:
        raise ValueError(f"layer_norm: input of shape {x.shape} does not end in normalized_shape {shape}")
    for p in (weight, bias):
        if p is not None and p.shape != shape:
            raise ValueError(f"layer_norm: a parameter of shape {p.shape} does not have normalized_shape {shape}")
    d = math.prod(shape)
    kernels = backend_of(x)
    flat = [None if p is None else p.reshape(d) for p in (weight, bias)]
    y, normal, scale = kernels.layer_norm(x.reshape(-1, d), flat[0], flat[1], eps)

    def pullback(g: Array, needs: Sequence[bool]) -> list[Array | None]:
        needs = (*needs, False, False)[:4]
        gx, gw, gb = kernels.layer_norm_grad(g.reshape(-1, d), normal, scale, flat[0], (needs[0], *needs[2:]))
        return [
            gx if gx is None else gx.reshape(x.shape),
            None,
            *(p if p is None else p.reshape(shape) for p in (gw, gb)),
        ]

    return y.reshape(x.shape), Joint(pullback)
