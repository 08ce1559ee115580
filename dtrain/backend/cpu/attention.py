"""Attention block by block, as `reference.blockwise_attention` does it, with oneDNN's softmax and its gradient.

That is for float32 (and two-byte floats by way of it) without bias and dropout, so that every query sees a key.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dtrain.backend.cpu.onednn import FORWARD, Arg, Context, Primitive, address, context, new, strided
from dtrain.backend.halves import HALVES, halved, widened
from dtrain.backend.reference import blockwise_attention as reference

__all__ = ["attention", "attention_grad"]

_ACCURATE, _ALONG_ROWS = 0x30000, 1


class _Softmax:
    """The softmax of rows in place, and its gradient in the place of the gradient that it is given."""

    def __init__(self, context: Context, rows: int, columns: int) -> None:
        lib, engine, options = context.lib, context.engine, context.attributes
        d = strided((rows, columns), np.dtype(np.float32))
        p = d.pointer
        pd = new(lib.softmax_forward_primitive_desc_create, engine, FORWARD, _ACCURATE, p, p, _ALONG_ROWS, options)
        try:
            back = new(lib.softmax_backward_primitive_desc_create, engine, _ACCURATE, p, p, p, _ALONG_ROWS, pd, options)
        except Exception:
            lib.primitive_desc_destroy(pd)
            raise
        self.forward = Primitive(context, pd, [(Arg.SRC, d), (Arg.DST, d)])
        self.backward = Primitive(context, back, [(Arg.DST, d), (Arg.DIFF_DST, d), (Arg.DIFF_SRC, d)])


def _softmax(rows: int, columns: int) -> tuple[Context, Any]:
    c = context()
    return c, c.kept(_Softmax, rows, columns)


def _weights(scores: np.ndarray) -> np.ndarray:
    """Softmax along the last dimension, in place."""
    c, found = _softmax(math.prod(scores.shape[:-1]), scores.shape[-1])
    place = address(scores)
    found.forward(place, place, *c.scratch(found.forward.scratchpad))
    return scores


def _scores_grad(g: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The gradient of the scores from that of the weights, in its place."""
    c, found = _softmax(math.prod(g.shape[:-1]), g.shape[-1])
    place = address(g)
    found.backward(address(weights), place, place, *c.scratch(found.backward.scratchpad))
    return g


def attention(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, *,
    bias: np.ndarray | None, causal: bool, scale: float, kept: np.ndarray | None, kept_scale: float,
) -> tuple[np.ndarray, Any]:  # fmt: skip
    """`reference.attention`: y, and what the gradient needs."""
    options: dict[str, Any] = {"causal": causal, "scale": scale, "kept": kept, "kept_scale": kept_scale}
    if query.dtype in HALVES:
        y, log_sums = attention(widened(query), widened(key), widened(value), bias=widened(bias), **options)
        return halved(y, query.dtype), log_sums
    simple = bias is None and kept is None and all(a.dtype == np.float32 and a.size for a in (query, key, value))
    if not simple or _softmax(1, 1)[1] is None:
        return reference.attention(query, key, value, bias=bias, **options)
    y = np.empty_like(query, shape=(*query.shape[:-1], value.shape[-1]))
    for block in reference.weight_blocks(query, key, causal):
        weights = _weights(reference.scores(query[block.queries] * query.dtype.type(scale), key, None, block))
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
        made = attention_grad(g, q, k, v, y, None, needs_bias=False, **options)
        return tuple(halved(d, query.dtype) for d in made)
    g_query, g_key, g_value = np.empty_like(query), np.zeros_like(key), np.zeros_like(value)
    for block in reference.weight_blocks(query, key, causal):
        scaled = query[block.queries] * query.dtype.type(scale)
        weights = _weights(reference.scores(scaled, key, None, block))
        g_value[block.keys] += np.matmul(weights.swapaxes(-1, -2), g[block.queries])
        g_scores = _scores_grad(np.matmul(g[block.queries], value[block.keys].swapaxes(-1, -2)), weights)
        part = g_query[block.queries]
        np.matmul(g_scores, key[block.keys], out=part)
        part *= query.dtype.type(scale)
        g_key[block.keys] += np.matmul(g_scores.swapaxes(-1, -2), scaled)
    return g_query, g_key, g_value, None
