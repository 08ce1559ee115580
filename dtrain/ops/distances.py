"""Distances and similarities of vectors: made of ops of Tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.autograd import constant
from dtrain.ops.arithmetic import clamp, maximum
from dtrain.ops.dtypes import in_float32
from dtrain.ops.indexing import index
from dtrain.ops.rearranging import broadcast_tensors
from dtrain.ops.reduction import sum
from dtrain.ops.shape import unsqueeze
from dtrain.ops.statistics import vector_norm

__all__ = ["cdist", "cosine_similarity", "normalize", "pairwise_distance", "pdist"]


def pairwise_distance(x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Any:
    """The norm of order p of x1 - x2 + eps over the last dimension; the others broadcast.

    Raises ValueError for shapes that do not broadcast.
    """
    return vector_norm(x1 - x2 + eps, p, -1, keepdim)


def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """x1 x2 / (max(|x1|, eps) max(|x2|, eps)), summed over dim; the others broadcast.

    Raises ValueError for shapes that do not broadcast, IndexError for no such dim.
    """
    if not x1.is_floating_point() or not x2.is_floating_point():
        raise TypeError(f"cosine_similarity needs floating-point tensors, got {x1.dtype} and {x2.dtype}")
    try:
        x1, x2 = broadcast_tensors(x1, x2)
    except ValueError:
        raise ValueError(f"cosine_similarity: shapes {x1.shape} and {x2.shape} do not broadcast") from None
    least = constant(np.asarray(eps, x1.dtype))
    a, b = (
        x / maximum(vector_norm(x, 2, dim, True), least) if x.ndim else x / maximum(abs(x), least) for x in (x1, x2)
    )
    return sum(a * b, dim)


def normalize(input: Any, p: float = 2.0, dim: Any = 1, eps: float = 1e-12) -> Any:
    """input / max(its norm of order p over dim, eps)"""
    return input / clamp(vector_norm(input, p, dim, True), eps)


@in_float32
def cdist(x1: Any, x2: Any, p: float = 2.0, compute_mode: str = "use_mm_for_euclid_dist_if_necessary") -> Any:
    """The distances of order p of all pairs of rows.  (..., P, M), (..., R, M) -> (..., P, R)

    compute_mode changes nothing. Raises ValueError for a negative p and rows of different lengths.
    """
    if p < 0 or min(x1.ndim, x2.ndim) < 2 or x1.shape[-1] != x2.shape[-1]:
        raise ValueError(f"cdist needs p >= 0 and rows of one length, got {p}, {x1.shape} and {x2.shape}")
    return vector_norm(unsqueeze(x1, -2) - unsqueeze(x2, -3), p, -1)


def pdist(input: Any, p: float = 2.0) -> Any:
    """The distances of order p of all pairs of rows i < j.  (N, M) -> (N (N - 1) / 2,)"""
    if input.ndim != 2 or p < 0:
        raise ValueError(f"pdist needs a matrix and p >= 0, got shape {input.shape} and {p}")
    i, j = np.triu_indices(input.shape[0], 1)
    return vector_norm(index(input, i) - index(input, j), p, -1)
