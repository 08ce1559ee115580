"""Attention block by block, the reference's, with oneDNN's softmax in float32 where every query sees a key.

On AMD's processors its products are oneDNN's, too: those of 64 queries and 128 keys of 32 numbers reach 165 GFLOP/s on
an EPYC, where NumPy's reach 108; on a Xeon, where its BLAS uses AVX-512, they are as fast.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.backend.cpu.processor import is_amd
from dtrain.backend.cpu.product import multiplied
from dtrain.backend.cpu.softmax import found_for, rows_grad, rows_softmax
from dtrain.backend.halves import HALVES
from dtrain.backend.reference import blockwise_attention as reference

__all__ = ["attention", "attention_grad"]

_SOFTMAX = reference.Softmax(rows_softmax, rows_grad)


def _every_query_sees_a_key(bias: np.ndarray | None, causal: bool) -> bool:
    """Whether that is sure: no row of the bias, which may be one that counts for all heads, is -inf throughout."""
    if bias is None or causal:
        return bias is None
    once = bias[tuple(slice(0, 1) if step == 0 else slice(None) for step in bias.strides[:-1])]
    return bool((once.max(-1, initial=-np.inf) > -np.inf).all())


def _matmul(x: np.ndarray, y: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """np.matmul."""
    made = None
    if is_amd() and x.dtype == np.float32 and x.shape[:-2] == y.shape[:-2] and x.ndim <= 5:
        made = multiplied(x, y, None, (*x.shape[:-1], y.shape[-1]), out)
    return np.matmul(x, y, out=out) if made is None else made


def attention(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, *, bias: np.ndarray | None, causal: bool, **options: Any
) -> tuple[np.ndarray, Any]:
    """`reference.attention`: y, and what the gradient needs."""
    fits = all((a.dtype == np.float32 or a.dtype in HALVES) and a.size for a in (query, key, value))
    if fits and _every_query_sees_a_key(bias, causal) and found_for(1, 1)[1] is not None:
        options["softmax"] = _SOFTMAX
    return reference.attention(query, key, value, bias=bias, causal=causal, **options, matmul=_matmul)


def attention_grad(
    g: np.ndarray, query: np.ndarray, key: np.ndarray, value: np.ndarray, y: np.ndarray, log_sums: Any, **options: Any
) -> tuple[np.ndarray | None, ...]:
    """`reference.attention_grad`: the gradients of query, key, value and bias."""
    softmax = _SOFTMAX if log_sums is None else None
    return reference.attention_grad(g, query, key, value, y, log_sums, **options, softmax=softmax, matmul=_matmul)
