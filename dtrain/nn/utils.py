"""PyTorch's `torch.nn.utils`: clipping of gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from dtrain.autograd import Tensor

__all__ = ["clip_grad_norm_", "clip_grad_value_"]


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    given: Iterable[Tensor] = [parameters] if isinstance(parameters, Tensor) else parameters
    return [p.grad for p in given if p.grad is not None]


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float | str = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients by min(1, max_norm / (norm + 1e-6)), norm that of all of them taken together.

    Returns the norm before. Under DistributedDataParallel call it after the step's last microbatch:
    gradients, and so the norm, are then the same on all ranks. Raises RuntimeError with
    error_if_nonfinite where the norm is infinite or NaN.
    """
    gradients = _gradients(parameters)
    arrays = [g.array.reshape(-1) for g in gradients]
    norm_type = float(norm_type)
    if norm_type == math.inf:
        norm = max((float(abs(a).max(initial=0)) for a in arrays), default=0.0)
    elif norm_type == 2:
        norm = math.sqrt(math.fsum(float(a @ a) for a in arrays))
    else:
        norm = math.fsum(float((abs(a) ** norm_type).sum()) for a in arrays) ** (1 / norm_type)
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(f"the norm of the gradients is {norm}; it cannot be clipped to {max_norm}")
    factor = max_norm / (norm + 1e-6)
    if factor < 1:
        for a in arrays:
            a *= factor
    return Tensor(np.asarray(norm, arrays[0].dtype if arrays else np.float32))


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Limit every element of every gradient to [-clip_value, clip_value]."""
    for g in _gradients(parameters):
        g.array.clip(-clip_value, clip_value, out=g.array)
