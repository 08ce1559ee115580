"""Attention block by block, as `reference.blockwise_attention` does it, with oneDNN's softmax and its gradient.

That is for float32 (and two-byte floats by way of it) without dropout, where every query sees a key.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.backend.cpu.softmax import found_for, rows_grad, rows_softmax
from dtrain.backend.halves import HALVES, halved, widened
from dtrain.backend.reference import blockwise_attention as reference

__all__ = ["attention", "attention_grad"]


def _every_query_sees_a_key(bias: np.ndarray | None, causal: bool) -> bool:
    """Whether that is sure: no row of the bias, which may be one that counts for all heads, is -inf throughout."""
    if bias is None or causal:
        return bias is None
    once = bias[tuple(slice(0, 1) if step == 0 else slice(None) for step in bias.strides[:-1])]
    return bool((once.max(-1, initial=-np.inf) > -np.inf).all())


def attention(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, *,
    bias: np.ndarray | None, causal: bool, scale: float, kept: np.ndarray | None, kept_scale: float,
) -> tuple[np.ndarray, Any]:  # fmt: skip
    """`reference.attention`: y, and what the gradient needs."""
    options: dict[str, Any] = {"causal": causal, "scale": scale, "kept": kept, "kept_scale": kept_scale}
    if query.dtype in HALVES:
        y, log_sums = attention(widened(query), widened(key), widened(value), bias=widened(bias), **options)
        return halved(y, query.dtype), log_sums
    fits = kept is None and all(a.dtype == np.float32 and a.size for a in (query, key, value))
    if not fits or not _every_query_sees_a_key(bias, causal) or found_for(1, 1)[1] is None:
        return reference.attention(query, key, value, bias=bias, **options)
    y = np.empty_like(query, shape=(*query.shape[:-1], value.shape[-1]))
    for block in reference.weight_blocks(query, key, causal):
        weights = rows_softmax(reference.scores(query[block.queries] * query.dtype.type(scale), key, bias, block))
        np.matmul(weights, value[block.keys], out=y[block.queries])
    return y, None


def attention_grad(
    g: np.ndarray, query: np.ndarray, key: np.ndarray, value: np.ndarray, y: np.ndarray, log_sums: Any, *,
    bias: np.ndarray | None, causal: bool, scale: float, kept: np.ndarray | None, kept_scale: float, needs_bias: bool,
) -> tuple[np.ndarray | None, ...]:  # fmt: skip
    """`reference.attention_grad`: the gradients of query, key, value and bias."""
    options: dict[str, Any] = {"bias": bias, "causal": causal, "scale": scale, "kept": kept, "kept_scale": kept_scale}
    if log_sums is not None:
        return reference.attention_grad(g, query, key, value, y, log_sums, needs_bias=needs_bias, **options)
    if query.dtype in HALVES:
        g, q, k, v, y = map(widened, (g, query, key, value, y))
        made = attention_grad(g, q, k, v, y, None, needs_bias=needs_bias, **{**options, "bias": widened(bias)})
        return tuple(halved(d, query.dtype) for d in made)
    g_query, g_key, g_value = np.empty_like(query), np.zeros_like(key), np.zeros_like(value)
    g_bias = np.zeros(bias.shape, bias.dtype) if bias is not None and needs_bias else None
    for block in reference.weight_blocks(query, key, causal):
        scaled = query[block.queries] * query.dtype.type(scale)
        weights = rows_softmax(reference.scores(scaled, key, bias, block))
        g_value[block.keys] += np.matmul(weights.swapaxes(-1, -2), g[block.queries])
        g_scores = rows_grad(np.matmul(g[block.queries], value[block.keys].swapaxes(-1, -2)), weights)
        if g_bias is not None:
            g_bias[block.weights] = g_scores
        part = g_query[block.queries]
        np.matmul(g_scores, key[block.keys], out=part)
        part *= query.dtype.type(scale)
        g_key[block.keys] += np.matmul(g_scores.swapaxes(-1, -2), scaled)
    return g_query, g_key, g_value, g_bias
