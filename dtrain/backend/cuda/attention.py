"""Attention: of two-byte floats tile by tile on tensor cores (`attention.cu`), else by products of whole matrices.

Those keep the weights of all queries and keys until the gradient is made. See `reference/blockwise_attention.py`.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from dtrain.backend.cuda.loader import CTYPES, kernel, pointer, word
from dtrain.backend.cuda.product import matmul
from dtrain.backend.cuda.rows import softmax, softmax_grad
from dtrain.backend.halves import HALVES, halved, widened

__all__ = ["attention", "attention_grad"]

_ROWS = 64  # that a block works on at least
_THREADS = 128
_COLUMNS = range(16, 129, 16)


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
    """softmax(scale query key^T + bias) value, in the layout of query. A query that sees no key gives 0.

    Keeps the weights (..., L, S), or of tiles the logarithms of sums of exponentials (heads of all, L).
    """
    import cupy

    if _in_tiles(query, key, value):
        return _tiled(query, key, value, causal, scale, bias, kept, kept_scale)
    if query.dtype in HALVES:
        options: dict[str, Any] = {"causal": causal, "scale": scale, "kept": kept, "kept_scale": kept_scale}
        y, weights = attention(widened(query), widened(key), widened(value), bias=widened(bias), **options)
        return halved(y, query.dtype), weights
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
) -> tuple[Any, ...]:
    """Gradients of attention in query, key, value and, if needed, bias. log_sums: what was kept."""
    in_tiles = _in_tiles(query, key, value)
    if in_tiles and not (needs_bias and bias is not None):
        return *_tiled_grad(g, query, key, value, y, log_sums, causal, scale, bias, kept, kept_scale), None
    if query.dtype in HALVES:
        g, q, k, v, y = map(widened, (g, query, key, value, y))
        options: dict[str, Any] = {"causal": causal, "scale": scale, "kept": kept, "kept_scale": kept_scale}
        options["bias"] = widened(bias)
        if in_tiles:  # whose kernels do not make the bias's gradient
            log_sums = attention(q, k, v, **options)[1]
        made = attention_grad(g, q, k, v, y, log_sums, **options, needs_bias=needs_bias)
        return tuple(halved(d, query.dtype) for d in made)
    weights, factor = log_sums, query.dtype.type(scale)
    g_value = matmul(_dropped(weights, kept, kept_scale).swapaxes(-1, -2), g)
    g_scores = softmax_grad(_dropped(matmul(g, value.swapaxes(-1, -2)), kept, kept_scale), weights, -1)
    g_query = matmul(g_scores, key) * factor
    g_key = matmul(g_scores.swapaxes(-1, -2), query) * factor
    return g_query, g_key, g_value, g_scores if bias is not None and needs_bias else None


def _in_tiles(query: Any, key: Any, value: Any) -> bool:
    """Whether the kernels of `attention.cu` can: two-byte floats, heads that fit, sm_80."""
    fit = query.shape[-1] == value.shape[-1] and query.shape[-1] in _COLUMNS and query.size and key.size
    return bool(query.dtype in HALVES and fit and _generation(query.device.id) >= 8)


@cache
def _generation(device: int) -> int:
    """The first number of the compute capability; 8 is Ampere."""
    import cupy

    return int(cupy.cuda.runtime.getDeviceProperties(device)["major"])


def _tiled(
    query: Any, key: Any, value: Any, causal: bool, scale: float, bias: Any, kept: Any, kept_scale: float
) -> tuple[Any, Any]:
    import cupy

    (q, k, v), (n, heads, queries, columns), keys = _stacks(query, key, value), _sizes(query), key.shape[-2]
    y = _like(q)
    log_sums = cupy.empty((n * heads, queries), np.float32)
    parts, is_more = 2 if columns <= 64 and queries > _ROWS else 1, bias is not None or kept is not None
    name = f"attention<{CTYPES[query.dtype]}, {columns}, {parts}, {word(is_more)}>"
    args = *_rows(q), *_rows(k), *_rows(v), *_rows(y), log_sums, *map(np.int32, (heads, queries, keys, causal))
    _start(name, n * heads, queries, parts * _ROWS, (*args, np.float32(scale), *_more(bias, kept, kept_scale)))
    return y.reshape(query.shape), log_sums


def _more(bias: Any, kept: Any, kept_scale: float) -> tuple[Any, ...]:
    """As a kernel's MORE_OF. bias, kept: (..., L, S) or None."""
    import cupy

    kept = None if kept is None else cupy.ascontiguousarray(kept)
    if bias is None:
        return pointer(None), *(np.int64(0),) * 4, pointer(kept), np.float32(kept_scale)
    bias = bias.reshape(_sizes(bias))
    steps = (np.int64(stride // bias.itemsize) for stride in bias.strides)
    return bias, *steps, pointer(kept), np.float32(kept_scale)


def _tiled_grad(
    g: Any, query: Any, key: Any, value: Any, y: Any, log_sums: Any, causal: bool, scale: float, bias: Any, kept: Any,
    kept_scale: float,
) -> tuple[Any, Any, Any]:  # fmt: skip
    import cupy

    q, k, v, g, y = _stacks(query, key, value, g, y)
    (n, heads, queries, columns), keys, T = _sizes(query), key.shape[-2], CTYPES[query.dtype]
    along = cupy.empty(log_sums.shape, np.float32)
    sizes = np.int32(heads), np.int32(queries), np.int32(columns), np.int64(along.size)
    kernel("attention", f"attention_along<{T}>")(
        (-(-along.size // 4),), (_THREADS,), (*_rows(g), *_rows(y), along, *sizes)
    )
    gq, gk, gv = _like(q), _like(k), _like(v)
    more, is_more = _more(bias, kept, kept_scale), bias is not None or kept is not None
    for of_keys, own, others, made in ((True, (k, v), (q, g), (gk, gv)), (False, (q, g), (k, v), (gq, None))):
        owned, other = (keys, queries) if of_keys else (queries, keys)
        args = [part for x in (*own, *others, *made) for part in _rows(x)]
        numbers = *map(np.int32, (heads, owned, other, causal)), np.float32(scale)
        name = f"attention_grad<{T}, {columns}, {word(of_keys)}, {word(is_more)}>"
        _start(name, n * heads, owned, _ROWS, (*args, log_sums, along, *numbers, *more))
    return gq.reshape(query.shape), gk.reshape(key.shape), gv.reshape(value.shape)


def _start(name: str, heads: int, rows: int, size: int, args: tuple[Any, ...]) -> None:
    kernel("attention", name)((heads * -(-rows // size),), (_THREADS,), args)


def _sizes(x: Any) -> tuple[int, int, int, int]:
    """All but the last three dimensions together, heads, rows, columns."""
    *lead, rows, columns = x.shape
    return math.prod(lead[:-1]), lead[-1] if lead else 1, rows, columns


def _stacks(*arrays: Any) -> list[Any]:
    """Each in the four dimensions of `_sizes`, in rows that can be read 16 bytes at a time; copied where they must."""
    import cupy

    found = []
    for x in arrays:
        x = x.reshape(_sizes(x))
        whole = x.strides[-1] == x.itemsize and not x.data.ptr % 16 and not any(s % 16 for s in x.strides[:-1])
        found.append(x if whole else cupy.ascontiguousarray(x))
    return found


def _like(x: Any) -> Any:
    """A new array (n, heads, rows, columns), in which rows or heads come first as they do in x."""
    import cupy

    n, heads, rows, columns = x.shape
    if x.strides[1] >= x.strides[2]:
        return cupy.empty(x.shape, x.dtype)
    return cupy.empty((n, rows, heads, columns), x.dtype).transpose(0, 2, 1, 3)


def _rows(x: Any) -> tuple[Any, ...]:
    """An array, or none, as a kernel's ROWS_OF: itself, and elements from one batch, head and row to the next."""
    if x is None:
        return pointer(None), *(np.int64(0),) * 3
    return x, *(np.int64(stride // x.itemsize) for stride in x.strides[:3])
