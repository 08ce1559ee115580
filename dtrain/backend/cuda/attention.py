"""Attention by products of whole matrices: the weights of all queries and keys are kept until the gradient is made.

See `reference/blockwise_attention.py`.
"""

from __future__ import annotations

import math
from typing import Any

from dtrain.backend.cuda.product import matmul
from dtrain.backend.cuda.rows import softmax

__all__ = ["attention", "attention_grad"]


def attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    bias: Any,
    causal: bool,
    scale: float,
    kept: Any,
    kept_scale: float,
) -> tuple[Any, Any]:
    """softmax(scale query key^T + bias) value; keeps the weights (..., L, S). A query that sees no key gives 0."""
    import cupy

    scores = matmul(query * query.dtype.type(scale), key.swapaxes(-1, -2))
    if bias is not None:
        scores = scores + bias
    if causal:
        scores += cupy.triu(cupy.full(scores.shape[-2:], -math.inf, scores.dtype), 1)
    weights = softmax(scores, -1)
    if bias is not None and weights.size:
        weights = cupy.where(scores.max(-1, keepdims=True) == -math.inf, weights.dtype.type(0), weights)
    return matmul(_dropped(weights, kept, kept_scale), value), weights


def _dropped(x: Any, kept: Any, kept_scale: float) -> Any:
    return x if kept is None else x * kept * x.dtype.type(kept_scale)


def attention_grad(
    g: Any,
    query: Any,
    key: Any,
    value: Any,
    y: Any,
    log_sums: Any,
    *,
    bias: Any,
    causal: bool,
    scale: float,
    kept: Any,
    kept_scale: float,
    needs_bias: bool,
) -> tuple[Any, Any, Any, Any]:
    """Gradients of attention in query, key, value and, if needed, bias. log_sums: the weights that were kept."""
    weights, factor = log_sums, query.dtype.type(scale)
    g_value = matmul(_dropped(weights, kept, kept_scale).swapaxes(-1, -2), g)
    g_scores = _dropped(matmul(g, value.swapaxes(-1, -2)), kept, kept_scale)
    g_scores -= (g * y).sum(-1, keepdims=True)
    g_scores *= weights
    g_query = matmul(g_scores, key) * factor
    g_key = matmul(g_scores.swapaxes(-1, -2), query) * factor
    return g_query, g_key, g_value, g_scores if bias is not None and needs_bias else None
