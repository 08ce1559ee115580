"""Clipping of gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from dtrain.autograd import Tensor

__all__ = ["clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    given: Iterable[Tensor] = [parameters] if isinstance(parameters, Tensor) else parameters
    return [p.grad for p in given if p.grad is not None]


def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float | str = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """The norm of all tensors taken together, as one vector: (sum of |x|^norm_type)^(1 / norm_type).

    norm_type: a number or "inf", the largest element. foreach changes nothing. Raises RuntimeError with
    error_if_nonfinite where the norm is infinite or NaN.
    """
    given: Iterable[Tensor] = [tensors] if isinstance(tensors, Tensor) else tensors
    arrays = [t.array.reshape(-1) for t in given]
    norm = _norm(arrays, float(norm_type))
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(f"the norm of the gradients is {norm}; it cannot be clipped to a finite one")
    return Tensor(np.asarray(norm, arrays[0].dtype if arrays else np.float32))


def _norm(arrays: list[np.ndarray], norm_type: float) -> float:
    if norm_type == math.inf:
        return max((float(abs(a).max(initial=0)) for a in arrays), default=0.0)
    if norm_type == 2:
        return math.sqrt(math.fsum(float(a @ a) for a in arrays))
    if norm_type == 0:
        return float(sum(np.count_nonzero(a) for a in arrays))
    return math.fsum(float((abs(a) ** norm_type).sum()) for a in arrays) ** (1 / norm_type)


def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, total_norm: Tensor | float, foreach: bool | None = None
) -> None:
    """Scale all gradients by min(1, max_norm / (total_norm + 1e-6)). foreach changes nothing."""
    _scale(_gradients(parameters), max_norm / (float(total_norm) + 1e-6))


def _scale(gradients: list[Tensor], factor: float) -> None:
    if factor < 1:
        with np.errstate(all="ignore"):  # infinity and NaN stay what they are
            for g in gradients:
                g.array *= factor


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float | str = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale all gradients by min(1, max_norm / (norm + 1e-6)), norm that of all of them taken together.

    Returns the norm before. Under DistributedDataParallel call it after the step's last microbatch:
    gradients, and so the norm, are then the same on all ranks. foreach changes nothing. Raises RuntimeError with
    error_if_nonfinite where the norm is infinite or NaN.
    """
    gradients = _gradients(parameters)
    arrays = [g.array.reshape(-1) for g in gradients]
    norm = _norm(arrays, float(norm_type))
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(f"the norm of the gradients is {norm}; it cannot be clipped to {max_norm}")
    _scale(gradients, max_norm / (norm + 1e-6))
    return Tensor(np.asarray(norm, arrays[0].dtype if arrays else np.float32))


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """Limit every element of every gradient to [-clip_value, clip_value]. foreach changes nothing."""
    for g in _gradients(parameters):
        g.array.clip(-clip_value, clip_value, out=g.array)
