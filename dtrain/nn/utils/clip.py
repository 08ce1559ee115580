"""Clipping of gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, as_one_call
from dtrain.backend import Array, backend_of, joined, on_gpu, xp_of

__all__ = ["clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    given: Iterable[Tensor] = [parameters] if isinstance(parameters, Tensor) else parameters
    return [p.grad for p in given if p.grad is not None]


@as_one_call
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
    arrays = [t.array for t in given]
    norm = _norm(arrays, float(norm_type))
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(f"the norm of the gradients is {norm}; it cannot be clipped to a finite one")
    return _as_tensor(norm, arrays)


def _as_tensor(norm: Any, arrays: Sequence[Array]) -> Tensor:
    dtype = arrays[0].dtype if arrays else np.dtype(np.float32)
    return Tensor(norm.astype(dtype) if on_gpu(norm) else np.asarray(norm, dtype))


def _norm(arrays: Sequence[Array], norm_type: float) -> Any:
    """A number; on a GPU an array of one, so that nobody waits for it."""
    arrays = [a.reshape(-1) for a in arrays]
    if arrays and on_gpu(arrays[0]) and norm_type == 2:
        return xp_of(arrays[0]).sqrt(joined([backend_of(a).square_sum(a).reshape(1) for a in arrays]).sum())
    if norm_type == math.inf:
        return max((float(abs(a).max(initial=0)) for a in arrays), default=0.0)
    if norm_type == 2:
        return math.sqrt(math.fsum(float(a @ a) for a in arrays))
    if norm_type == 0:
        return float(sum(np.count_nonzero(a) for a in arrays))
    return math.fsum(float((abs(a) ** norm_type).sum()) for a in arrays) ** (1 / norm_type)


@as_one_call
def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, total_norm: Tensor | float, foreach: bool | None = None
) -> None:
    """Scale all gradients by min(1, max_norm / (total_norm + 1e-6)). foreach changes nothing."""
    pieces = _pieces(parameters)
    norm: Any = total_norm.array if isinstance(total_norm, Tensor) and on_gpu(total_norm.array) else float(total_norm)
    _scale(pieces, max_norm / (norm + 1e-6))


def _pieces(parameters: Tensor | Iterable[Tensor]) -> list[Array]:
    """The arrays of all gradients. On a GPU, which likes few large ones, flat buffers where all of theirs are given."""
    several: Iterable[Any] = [parameters] if isinstance(parameters, Tensor) else parameters
    given = [p for p in several if p.grad is not None]
    if not given or not on_gpu(given[0].array):
        return [p.grad.array for p in given]
    found, there = [], {id(p) for p in given if p._flat is not None and p.grad is p._flat.grad}
    flats = {id(p._flat.flat): p._flat.flat for p in given if id(p) in there}
    for flat in flats.values():
        parts = {id(t) for t in flat.tensors}
        if parts <= there and flat.is_whole():
            given = [p for p in given if id(p) not in parts]
            found.append(flat.grad)
    return found + [p.grad.array for p in given]


def _scale(pieces: Sequence[Array], factor: Any) -> None:
    if on_gpu(factor):
        factor = xp_of(factor).where(factor < 1, factor, 1)  # NaN, too, changes nothing
    elif not factor < 1:
        return
    with np.errstate(all="ignore"):  # infinity and NaN stay what they are
        for a in pieces:
            a *= factor.astype(a.dtype) if on_gpu(factor) else factor


@as_one_call
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
    pieces = _pieces(parameters)
    norm = _norm(pieces, float(norm_type))
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(f"the norm of the gradients is {norm}; it cannot be clipped to {max_norm}")
    _scale(pieces, max_norm / (norm + 1e-6))
    return _as_tensor(norm, pieces)


@as_one_call
def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """Limit every element of every gradient to [-clip_value, clip_value]. foreach changes nothing."""
    for g in _gradients(parameters):
        g.array.clip(-clip_value, clip_value, out=g.array)
