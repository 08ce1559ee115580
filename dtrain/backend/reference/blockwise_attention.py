"""Attention, block by block: the whole matrix of weights is never kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from dtrain.backend.halves import HALVES, halved, widened

__all__ = ["Softmax", "attention", "attention_grad"]


# Elements of a block of attention weights: 256 KiB of float32, so that all passes over it stay in the L2 cache.
_WEIGHT_ELEMENTS = 1 << 16


class Softmax(NamedTuple):
    """Softmax along the last dimension. of(x): in place; gradient(g, y): that of x, in g's place, where y is `of` x."""

    of: Callable[[np.ndarray], Any]
    gradient: Callable[[np.ndarray, np.ndarray], Any]


#: np.matmul, or a faster one.
Product = Callable[..., np.ndarray]


class _WeightBlock(NamedTuple):
    """Where a block of attention weights lies in queries, in keys and in the weights, all heads at once.

    bias: what is added to its last keys in causal attention: -inf for those later than their query.
    """

    queries: tuple[Any, ...]
    keys: tuple[Any, ...]
    weights: tuple[Any, ...]
    bias: np.ndarray | None


def _weight_blocks(query: np.ndarray, key: np.ndarray, causal: bool) -> Iterator[_WeightBlock]:
    """Blocks that cover all weights, but for keys after the last query of a causal block, of which it sees nothing."""
    *lead, length, _ = query.shape
    seen = key.shape[-2]
    step = max(1, _WEIGHT_ELEMENTS // max(1, seen * (lead[-1] if lead else 1)))
    later = np.triu(np.full((min(step, length),) * 2, -math.inf, query.dtype), 1)
    for at in np.ndindex(*lead[:-1]):
        for lo in range(0, length, step):
            hi = min(lo + step, length)
            end = min(hi, seen) if causal else seen
            rows, columns, all_ = slice(lo, hi), slice(0, end), slice(None)
            bias = later[: hi - lo, : max(0, end - lo)] if causal else None
            yield _WeightBlock((*at, ..., rows, all_), (*at, ..., columns, all_), (*at, ..., rows, columns), bias)


def _scores(
    query: np.ndarray, key: np.ndarray, bias: np.ndarray | None, block: _WeightBlock, matmul: Product
) -> np.ndarray:
    """query key^T + bias in a block. query: of the block, key, bias: whole."""
    made = matmul(query, key[block.keys].swapaxes(-1, -2))
    if bias is not None:
        made += bias[block.weights]
    if block.bias is not None:
        n = block.bias.shape[1]
        square = made[..., made.shape[-1] - n :]
        square += block.bias
    return made


def attention(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    *,
    bias: np.ndarray | None,
    causal: bool,
    scale: float,
    kept: np.ndarray | None,
    kept_scale: float,
    softmax: Softmax | None = None,
    matmul: Product = np.matmul,
) -> tuple[np.ndarray, Any]:
    """softmax(scale query key^T + bias) value. query: (..., L, E), key: (..., S, E), value: (..., S, V) -> (..., L, V)

    bias: (..., L, S). causal: query i sees keys 0 to i. kept: (..., L, S), which weights dropout keeps, to be
    multiplied by kept_scale. Returns y, in the memory layout of query, and for the gradient log(sum(exp(scores)))
    (..., L, 1); a query that sees no key gives 0 and 0. Two-byte floats are computed with in float32, and rounded once.
    softmax: a faster one, where every query sees a key; then the gradient needs None.
    """
    if query.dtype in HALVES:
        options: dict[str, Any] = {"causal": causal, "scale": scale, "kept": kept, "kept_scale": kept_scale}
        options |= {"softmax": softmax, "matmul": matmul}
        y, log_sums = attention(widened(query), widened(key), widened(value), bias=widened(bias), **options)
        return halved(y, query.dtype), log_sums
    y = np.empty_like(query, shape=(*query.shape[:-1], value.shape[-1]))
    log_sums = np.empty((*query.shape[:-1], 1), query.dtype) if softmax is None else None
    for block in _weight_blocks(query, key, causal):
        weights = _scores(query[block.queries] * query.dtype.type(scale), key, bias, block, matmul)
        if softmax is None:
            top = weights.max(-1, keepdims=True, initial=-math.inf)
            top[top == -math.inf] = 0
            weights -= top
            np.exp(weights, out=weights)
            total = weights.sum(-1, keepdims=True)
            total[total == 0] = 1
        else:
            softmax.of(weights)
        if kept is not None:
            weights *= kept[block.weights] * weights.dtype.type(kept_scale)
        part = y[block.queries]
        matmul(weights, value[block.keys], out=part)
        if log_sums is not None:
            part /= total
            log_sums[block.queries] = np.log(total) + top
    return y, log_sums


def attention_grad(
    g: np.ndarray,
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    y: np.ndarray,
    log_sums: Any,
    *,
    bias: np.ndarray | None,
    causal: bool,
    scale: float,
    kept: np.ndarray | None,
    kept_scale: float,
    needs_bias: bool,
    softmax: Softmax | None = None,
    matmul: Product = np.matmul,
) -> tuple[np.ndarray | None, ...]:
    """Gradients of attention with respect to query, key, value and, if needed, bias. g: (..., L, V)

    The weights p are made again. With dropout's factors f, value gets (f p)^T g, and the scores
    p (f (g value^T) - sum(g y)). softmax: the one that `attention` had.
    """
    if query.dtype in HALVES:
        wide = map(widened, (g, query, key, value, y))
        options: dict[str, Any] = {"causal": causal, "scale": scale, "kept": kept, "kept_scale": kept_scale}
        options["needs_bias"] = needs_bias
        options |= {"softmax": softmax, "matmul": matmul}
        made: Any = attention_grad(*wide, log_sums, bias=widened(bias), **options)  # type: ignore[misc]
        return tuple(halved(d, query.dtype) for d in made)
    g_query, g_key, g_value = np.empty_like(query), np.zeros_like(key), np.zeros_like(value)
    g_bias = np.zeros(bias.shape, bias.dtype) if bias is not None and needs_bias else None
    along = (g * y).sum(-1, keepdims=True) if softmax is None else None
    for block in _weight_blocks(query, key, causal):
        scaled = query[block.queries] * query.dtype.type(scale)
        weights = _scores(scaled, key, bias, block, matmul)
        if softmax is None:
            weights -= log_sums[block.queries]
            np.exp(weights, out=weights)
        else:
            softmax.of(weights)
        g_scores = matmul(g[block.queries], value[block.keys].swapaxes(-1, -2))
        dropped = weights
        if kept is not None:
            factor = kept[block.weights] * weights.dtype.type(kept_scale)
            g_scores *= factor
            dropped = weights * factor
        g_value[block.keys] += matmul(dropped.swapaxes(-1, -2), g[block.queries])
        if along is not None:
            g_scores -= along[block.queries]
            g_scores *= weights
        elif softmax is not None:
            softmax.gradient(g_scores, weights)
        if g_bias is not None:
            g_bias[block.weights] = g_scores
        part = g_query[block.queries]
        matmul(g_scores, key[block.keys], out=part)
        part *= query.dtype.type(scale)
        g_key[block.keys] += matmul(g_scores.swapaxes(-1, -2), scaled)
    return g_query, g_key, g_value, g_bias
