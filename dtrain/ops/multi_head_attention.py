"""Attention of several heads, with its projections: what nn.MultiheadAttention computes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dtrain.autograd import Tensor
from dtrain.backend import xp_of
from dtrain.backend.halves import is_float
from dtrain.ops.activation import softmax
from dtrain.ops.attention import scaled_dot_product_attention
from dtrain.ops.creation import zeros
from dtrain.ops.dropout import dropout
from dtrain.ops.linear import linear, matmul
from dtrain.ops.shape import cat, chunk, split

__all__ = ["multi_head_attention_forward"]

_NAME = "multi_head_attention_forward"


def multi_head_attention_forward(
    query: Any,
    key: Any,
    value: Any,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Any,
    in_proj_bias: Any,
    bias_k: Any,
    bias_v: Any,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Any,
    out_proj_bias: Any,
    training: bool = True,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Any = None,
    k_proj_weight: Any = None,
    v_proj_weight: Any = None,
    static_k: Any = None,
    static_v: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Any, Any]:
    """W_o [head_1, ..., head_h] + b_o, head_i = attention(W_q,i query + b_q,i, W_k,i key + ..., W_v,i value + ...).

    Vaswani et al., arXiv:1706.03762. query: (L, N, E), key: (S, N, E_k), value: (S, N, E_v), or all without N
    -> (L, N, E), and with need_weights the weights (N, L, S), or (N, heads, L, S) unless average_attn_weights, else
    None. in_proj_weight: (3 E, E), W_q, W_k and W_v one below the other; with use_separate_proj_weight there are
    q_proj_weight: (E, E), k_proj_weight: (E, E_k), v_proj_weight: (E, E_v) instead. in_proj_bias: (3 E,) or None.
    key_padding_mask: (N, S), attn_mask: (L, S) or (N heads, L, S); a bool is true where a query must NOT look at a key
    (unlike `scaled_dot_product_attention`), numbers are added to the scores. is_causal says that attn_mask is the
    causal one. bias_k, bias_v: (1, 1, E), one more key and value; add_zero_attn: one more of zeros. static_k,
    static_v: (N heads, S, E / heads), keys and values in place of the projected ones.
    Raises ValueError where the shapes do not fit, RuntimeError for is_causal without attn_mask.
    """
    batched = _check_inputs(query, key, value, key_padding_mask, attn_mask, num_heads, embed_dim_to_check)
    if is_causal and attn_mask is None:
        raise RuntimeError(f"{_NAME}: is_causal=True says that attn_mask is the causal mask; give that as well")
    same_key, same_value = key is query, value is key
    if not batched:
        query = query.unsqueeze(1)
        key = query if same_key else key.unsqueeze(1)
        value = key if same_value else value.unsqueeze(1)
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    (length, batch, width), heads = query.shape, num_heads
    size = width // heads
    if use_separate_proj_weight:
        apart = (q_proj_weight, k_proj_weight, v_proj_weight)
        if any(w is None for w in apart):
            raise ValueError(f"{_NAME}: use_separate_proj_weight needs q_proj_weight, k_proj_weight and v_proj_weight")
        biases = (None, None, None) if in_proj_bias is None else chunk(in_proj_bias, 3)
        q, k, v = (linear(x, w, b) for x, w, b in zip((query, key, value), apart, biases, strict=True))
    else:
        q, k, v = _projected(query, key, value, in_proj_weight, in_proj_bias)

    def by_head(x: Any) -> Any:
        """(T, N, E) -> (N, heads, T, E / heads)"""
        return x.reshape(x.shape[0], batch, heads, size).permute(1, 2, 0, 3)

    if bias_k is not None and bias_v is not None:
        if static_k is not None or static_v is not None:
            raise ValueError(f"{_NAME}: bias_k and bias_v do not go together with static_k and static_v")
        k = cat([k, bias_k.expand(1, batch, width)])
        v = cat([v, bias_v.expand(1, batch, width)])
    elif bias_k is not None or bias_v is not None:
        raise ValueError(f"{_NAME}: bias_k and bias_v are given both, or neither")
    q = by_head(q)
    k = by_head(k) if static_k is None else _static("static_k", static_k, batch, heads, size)
    v = by_head(v) if static_v is None else _static("static_v", static_v, batch, heads, size)
    if add_zero_attn:
        k, v = (cat([x, zeros(batch, heads, 1, size, dtype=x.dtype)], 2) for x in (k, v))
    # Where the mask is the causal one and nothing else is masked or added, it need not be read.
    causal = is_causal and key_padding_mask is None and not need_weights and k.shape[2] == key.shape[0]
    mask = None if causal else _bias(q, attn_mask, key_padding_mask, k.shape[2])
    p = dropout_p if training else 0.0
    weights: Any = None
    if need_weights:
        scores = matmul(q * (1 / math.sqrt(size)), k.transpose(-1, -2))
        weights = dropout(softmax(scores if mask is None else scores + mask, -1), p)
        y = matmul(weights, v)
        if average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            weights = weights.squeeze(0)
    else:
        y = scaled_dot_product_attention(q, k, v, mask, p, causal)
    y = linear(y.permute(2, 0, 1, 3).reshape(length, batch, width), out_proj_weight, out_proj_bias)
    return (y if batched else y.squeeze(1)), weights


def _check_inputs(query: Any, key: Any, value: Any, padding: Any, mask: Any, heads: int, width: int) -> bool:
    """Whether there is a batch dimension; raises where the inputs do not fit together."""
    given = f"query {query.shape}, key {key.shape} and value {value.shape}"
    if query.ndim not in (2, 3) or not query.ndim == key.ndim == value.ndim:
        raise ValueError(f"{_NAME}: {given} must all be (T, N, E), or all (T, E)")
    if key.shape[:-1] != value.shape[:-1] or query.ndim == 3 and key.shape[1] != query.shape[1]:
        raise ValueError(f"{_NAME}: {given} do not fit; key and value need one length, all need one batch size")
    if query.shape[-1] != width or width % heads:
        raise ValueError(
            f"{_NAME}: query {query.shape} must end in embed_dim = {width}, and that be a multiple of {heads} heads"
        )
    length, keys = query.shape[0], key.shape[0]
    batch = query.shape[1] if query.ndim == 3 else 1
    expected = key.shape[1::-1] if key.ndim == 3 else (keys,)
    if padding is not None and padding.shape != expected:
        raise ValueError(f"{_NAME}: key_padding_mask {padding.shape} does not fit key {key.shape}; expected {expected}")
    if mask is not None and mask.shape not in ((length, keys), (batch * heads, length, keys)):
        raise ValueError(
            f"{_NAME}: attn_mask {mask.shape} does not fit {given}; expected {(length, keys)} or "
            f"{(batch * heads, length, keys)}"
        )
    for name, m in (("key_padding_mask", padding), ("attn_mask", mask)):
        if m is not None and m.dtype.kind != "b" and not is_float(m.dtype):
            raise TypeError(f"{_NAME}: {name} must be of bools or floating-point numbers, got {m.dtype}")
    return query.ndim == 3


def _projected(query: Any, key: Any, value: Any, weight: Any, bias: Any) -> tuple[Any, Any, Any]:
    """One product for what is projected from the same tensor."""
    width = query.shape[-1]
    if key is query and value is key:
        q, k, v = chunk(linear(query, weight, bias), 3, -1)
        return q, k, v
    if value is key:
        w = split(weight, [width, 2 * width])
        b = (None, None) if bias is None else split(bias, [width, 2 * width])
        k, v = chunk(linear(key, w[1], b[1]), 2, -1)
        return linear(query, w[0], b[0]), k, v
    w = chunk(weight, 3)
    b = (None, None, None) if bias is None else chunk(bias, 3)
    q, k, v = (linear(x, *wb) for x, *wb in zip((query, key, value), w, b, strict=True))
    return q, k, v


def _static(name: str, x: Any, batch: int, heads: int, size: int) -> Any:
    if x.ndim != 3 or x.shape[0] != batch * heads or x.shape[2] != size:
        raise ValueError(f"{_NAME}: {name} {x.shape} does not fit; expected ({batch * heads}, S, {size})")
    return x.reshape(batch, heads, *x.shape[1:])


def _numbers(mask: Any, dtype: np.dtype) -> Any:
    """A mask as numbers to be added to scores: -inf where a bool is true."""
    if mask.dtype.kind != "b":
        return mask
    return Tensor(xp_of(mask.array).where(mask.array, dtype.type(-math.inf), dtype.type(0)))


def _bias(q: Any, attn_mask: Any, padding: Any, keys: int) -> Any:
    """Both masks as one sum that broadcasts to (N, heads, L, keys), None for none; keys that were added are seen."""
    batch, heads = q.shape[:2]
    masks = []
    if attn_mask is not None:
        m = _numbers(attn_mask, q.dtype)
        masks.append(m.reshape(batch, heads, *m.shape[1:]) if m.ndim == 3 else m)
    if padding is not None:
        masks.append(_numbers(padding, q.dtype).reshape(batch, 1, 1, padding.shape[1]))
    wide = [
        m if m.shape[-1] == keys else cat([m, zeros(*m.shape[:-1], keys - m.shape[-1], dtype=m.dtype)], -1)
        for m in masks
    ]
    return sum(wide[1:], wide[0]) if wide else None
