"""What weight norm and spectral norm compute, and which parameters may be replaced."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.autograd import Tensor
from dtrain.nn import init
from dtrain.ops.creation import empty
from dtrain.ops.shape import permute

__all__ = ["as_matrix", "check_free", "divided", "iterate", "norm_except", "start_vector", "weight_of"]


def norm_except(v: Tensor, dim: int | None) -> Tensor:
    """The Euclidean norm over all dimensions but dim, with which it broadcasts; over all for None or -1, as PyTorch."""
    if dim is None or dim == -1:
        return (v * v).sum().sqrt()
    axis = dim % v.ndim
    return (v * v).sum(tuple(i for i in range(v.ndim) if i != axis), keepdim=True).sqrt()


def weight_of(g: Tensor, v: Tensor, dim: int | None) -> Tensor:
    """g * v / |v| (Salimans and Kingma, arXiv:1602.07868)."""
    return v * (g / norm_except(v, dim))


def as_matrix(weight: Tensor, dim: int) -> Tensor:
    """(shape[dim], all the rest)"""
    if dim:
        weight = permute(weight, (dim, *(i for i in range(weight.ndim) if i != dim)))
    return weight.reshape(weight.shape[0], -1)


def _unit(x: np.ndarray, eps: float) -> np.ndarray:
    return x / max(float(np.sqrt((x * x).sum())), eps)


def start_vector(weight: Tensor, n: int, eps: float) -> Tensor:
    """A random vector of length 1, from the run's seed.  -> (n,)"""
    return Tensor(_unit(init.normal_(empty(n, dtype=weight.dtype)).array, eps).astype(weight.dtype))


def iterate(matrix: Tensor, u: Tensor, v: Tensor, times: int, eps: float, u_first: bool) -> None:
    """The power method, in place: u, v become the first singular vectors. u_first: which is made of the other first."""
    m = matrix.array
    for _ in range(times):
        for make_u in (u_first, not u_first):
            if make_u:
                u.array[...] = _unit(m @ v.array, eps)
            else:
                v.array[...] = _unit(m.T @ u.array, eps)


def divided(weight: Tensor, matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """weight / (u^T matrix v), the largest singular value (Miyato et al., arXiv:1802.05957)."""
    left, right = Tensor(u.array.copy()), Tensor(v.array.copy())  # the next forward changes u and v
    return weight / (left * (matrix @ right)).sum()


def check_free(what: str, weight: Any, name: str, kept: bool) -> None:
    """Raise RuntimeError where the module's parameter is held already: by DistributedDataParallel, or an optimizer.

    kept: the parameter stays the same object, so that an optimizer that holds it goes on with it.
    """
    if weight._sink is not None:
        raise RuntimeError(
            f"{what}: parameter {name!r} of shape {weight.shape} belongs to a DistributedDataParallel; "
            f"call {what} before the module is wrapped"
        )
    if not kept and weight._flat is not None:
        raise RuntimeError(
            f"{what}: parameter {name!r} of shape {weight.shape} belongs to an optimizer, which would go on with it "
            f"and not see those that take its place; call {what} before the optimizer is made"
        )
