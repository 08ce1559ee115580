"""Normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.autograd import Joint, as_one_call, op
from dtrain.backend import Array, backend_of, device_of, to_device, to_numpy
from dtrain.backend.halves import HALVES
from dtrain.ops.dtypes import Like

__all__ = ["batch_norm", "layer_norm", "rms_norm", "sync_batch_norm"]


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
    Raises ValueError where training sees a single value per channel, which has no variance, and for eps <= 0.
    """
    if eps <= 0:
        raise ValueError(f"batch_norm: eps must be positive, got {eps}")
    if input.ndim == 1 and not input.numel():
        return input  # PyTorch takes this, too
    _check_channels(input, weight, bias, running_mean, running_var)
    count = input.array.size // input.shape[1] if input.shape[1] else 0
    if training and count == 1:
        raise ValueError(
            f"batch_norm in training needs more than one value per channel, got input of shape {input.shape}; "
            "use a larger batch, fewer microbatches, drop_last=True or nn.SyncBatchNorm"
        )
    of_batch = training or running_mean is None or running_var is None
    mean, var = (None, None) if of_batch else (running_mean, running_var)
    found: list[Array] = []
    y = _batch_norm(input, weight, bias, mean, var, eps, found)
    if training and count:
        _track(running_mean, running_var, momentum, found, count)
    return y


@as_one_call
def _track(running_mean: Any, running_var: Any, momentum: float, found: list[Array], count: int) -> None:
    """The running statistics move to those that were found in a batch of `count` values per channel."""
    for running, statistic, factor in ((running_mean, found[0], 1.0), (running_var, found[1], count / (count - 1))):
        if running is not None:
            _move(running.array, momentum, statistic, factor)


@op(halves=True)
def _batch_norm(x: Any, weight: Any, bias: Any, mean: Any, var: Any, eps: float, found: list[Array]) -> Any:
    """x normalised with mean and var, or without them with its own, which are left in `found`."""
    kernels = backend_of(x)
    y, of_x, variance, kept = kernels.batch_norm(x, weight, bias, mean, var, eps)
    found[:] = of_x, variance
    of_batch, like = mean is None, Like(x)

    def pullback(g: Array, needs: Sequence[bool]) -> list[Array | None]:
        return _in_dtypes(kernels.batch_norm_grad(g, kept, weight, of_batch, needs), like, weight, bias)

    return y, Joint(pullback)


@_batch_norm.formula
def _(x: Any, weight: Any, bias: Any, mean: Any, var: Any, eps: float, found: list[Array]) -> Any:
    wide = (-1,) + (1,) * (x.ndim - 2)
    axes = tuple(i for i in range(x.ndim) if i != 1)
    centred = x - (x.mean(axes, keepdim=True) if mean is None else mean.reshape(wide))
    variance = (centred * centred).mean(axes, keepdim=True) if var is None else var.reshape(wide)
    y = centred / (variance + eps).sqrt()
    y = y if weight is None else y * weight.reshape(wide)
    return y if bias is None else y + bias.reshape(wide)


@op(halves=True)
def sync_batch_norm(
    input: Any,  # noqa: A002
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    momentum: float,
    eps: float,
    gather: Callable[[Array], Array],
) -> Any:
    """batch_norm in training where the input is a part of the batch: one microbatch. input: (N, C, ...), N may be 0

    gather(row): a float64 row of k numbers -> (parts, k), the rows of all parts in their order. It is called
    once here and once in the gradient. What is made of the rows, and so the running statistics, is the same
    to the bit in every part: with n_j, mean_j and m2_j = sum of (x - mean_j)^2 of part j, and n = sum of n_j,

        mean = (sum of n_j mean_j) / n        var = (sum of m2_j + n_j (mean_j - mean)^2) / n

    (Chan, Golub and LeVeque, 1979). Raises ValueError where all parts together have one value per channel.
    """
    x = input
    _check_channels(x, weight, bias, running_mean, running_var)
    kernels, place = backend_of(x), device_of(x)
    channels, like = x.shape[1], Like(x)

    def of_all(*parts: Array) -> Array:
        return gather(np.concatenate([np.ravel(to_numpy(part)).astype(np.float64) for part in parts]))

    def here(values: Array) -> Array:
        return to_device(values.astype(np.float32 if like.dtype in HALVES else like.dtype), place)

    rows = of_all(np.array(x.size // max(1, channels)), *kernels.batch_norm_stats(x))
    counts, means, m2 = rows[:, :1], rows[:, 1 : channels + 1], rows[:, channels + 1 :]
    count = float(counts.sum())
    if count == 1:
        raise ValueError(
            f"batch_norm in training needs more than one value per channel in the microbatches of a step together, "
            f"got one, in an input of {x.ndim} dimensions and {channels} channels; use a larger batch or drop_last=True"
        )
    mean = (counts * means).sum(0) / max(1.0, count)
    var = (m2 + counts * (means - mean) ** 2).sum(0) / max(1.0, count)
    if count:
        _move(running_mean, momentum, to_device(mean, place))
        _move(running_var, momentum, to_device(var, place), count / (count - 1))
    y, _, _, kept = kernels.batch_norm(x, weight, bias, here(mean), here(var), eps)

    def pullback(g: Array, needs: Sequence[bool]) -> list[Array | None]:
        sums = of_all(*kernels.batch_norm_grad_sums(g, kept)).sum(0)
        of_g, of_g_normal = here(sums[:channels]), here(sums[channels:])
        found = kernels.batch_norm_grad(g, kept, weight, True, needs, (of_g, of_g_normal, count))
        return _in_dtypes(found, like, weight, bias)

    return y, Joint(pullback)


def _in_dtypes(gradients: Sequence[Array | None], *inputs: Any) -> list[Array | None]:
    """Each gradient in the dtype of its input."""
    return [g if g is None else g.astype(x.dtype, copy=False) for g, x in zip(gradients, inputs, strict=False)]


def _check_channels(x: Any, *per_channel: Any) -> None:
    if x.ndim < 2 or any(p is not None and p.shape != x.shape[1:2] for p in per_channel):
        raise ValueError(
            f"batch_norm: input of shape {x.shape} does not fit parameters and statistics of shapes "
            f"{[p.shape for p in per_channel if p is not None]}"
        )


def _move(running: Array | None, momentum: float, statistic: Array, factor: float = 1.0) -> None:
    """running = (1 - momentum) * running + momentum * factor * statistic, in place."""
    if running is not None:
        running *= 1 - momentum
        running += (momentum * factor) * statistic


@op(halves=True)
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
    return _over_rows(x, shape, weight, bias, eps, True)


def _over_rows(
    x: Array, shape: tuple[int, ...], weight: Any, bias: Any, eps: float, centred: bool
) -> tuple[Array, Joint]:
    """x normalised over its last dimensions, of `shape`, and the gradients of x, None, weight and bias."""
    d, like = math.prod(shape), Like(x)
    kernels = backend_of(x)
    flat = [None if p is None else p.reshape(d) for p in (weight, bias)]
    y, kept = kernels.layer_norm(x.reshape(-1, d), flat[0], flat[1], eps, centred)

    def pullback(g: Array, needs: Sequence[bool]) -> list[Array | None]:
        needs = (*needs, False, False)[:4]
        found = kernels.layer_norm_grad(g.reshape(-1, d), kept, flat[0], (needs[0], *needs[2:]))
        gx, gw, gb = _in_dtypes(found, like, weight, bias)
        return [
            gx if gx is None else gx.reshape(like.shape),
            None,
            *(p if p is None else p.reshape(shape) for p in (gw, gb)),
        ]

    return y.reshape(x.shape), Joint(pullback)


@layer_norm.formula
def _(input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:  # noqa: A002
    dims = tuple(range(-1 if isinstance(normalized_shape, int) else -len(normalized_shape), 0))
    x = input - input.mean(dims, keepdim=True)
    y = x / (x.square().mean(dims, keepdim=True) + eps).sqrt()
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@op(halves=True)
def rms_norm(input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:  # noqa: A002
    """x / sqrt(mean(x^2) + eps) * weight over the last dimensions, of normalized_shape.

    Zhang and Sennrich, arXiv:1910.07467. eps: the machine epsilon of the dtype unless given, for float16 that of
    float32, in which it is computed. Raises ValueError for shapes that do not fit.
    """
    x = input
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or x.shape[x.ndim - len(shape) :] != shape or weight is not None and weight.shape != shape:
        raise ValueError(
            f"rms_norm: an input of shape {x.shape}, a weight of shape {getattr(weight, 'shape', None)}: the last "
            f"dimensions must be normalized_shape {shape}, which must be that of the weight"
        )
    y, pullback = _over_rows(x, shape, weight, None, _epsilon(x) if eps is None else eps, False)
    return y.astype(x.dtype, copy=False), pullback


def _epsilon(x: Any) -> float:
    return float(np.finfo(np.float32 if x.dtype in HALVES else x.dtype).eps)


@rms_norm.formula
def _(input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:  # noqa: A002
    dims = tuple(range(-1 if isinstance(normalized_shape, int) else -len(normalized_shape), 0))
    x = input.to(np.float32) if input.dtype in HALVES else input  # the squares would overflow
    y = x / (x.square().mean(dims, keepdim=True) + (_epsilon(x) if eps is None else eps)).sqrt()
    return (y if weight is None else y * weight).to(input.dtype)
