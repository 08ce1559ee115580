"""Attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dtrain.autograd import Joint, Tensor, op
from dtrain.backend import Array, backend_of, xp_of
from dtrain.ops.dropout import draw_kept
from dtrain.ops.dtypes import same_dtype, unbroadcast
from dtrain.ops.linear import matmul
from dtrain.ops.shape import unsqueeze

__all__ = ["scaled_dot_product_attention"]


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(scale query key^T + bias) value.  query: (..., L, E), key: (..., S, E), value: (..., S, V) -> (..., L, V)

    Vaswani et al., arXiv:1706.03762. scale: 1 / sqrt(E) unless given. attn_mask, broadcast to (..., L, S): a bool is
    true where a query may look at a key, numbers are the bias. is_causal: query i sees keys 0 to i. A query that sees
    no key gives zeros. Weights are dropped with probability dropout_p, as `dropout` does. Leading dimensions broadcast.
    enable_gqa: query (..., G H, L, E) has G heads for each of the H heads of key and value (Ainslie et al.,
    arXiv:2305.13245), which are not copied. The weights are made block by block, in forward and again in backward:
    memory does not grow with L * S. Raises ValueError where the shapes do not fit, for a mask beside is_causal, and
    for dropout_p outside [0, 1].
    """
    q, k, v = query, key, value
    fit = min(q.ndim, k.ndim, v.ndim) >= 2 and q.shape[-1] == k.shape[-1] and k.shape[-2] == v.shape[-2]
    if not fit:
        raise ValueError(
            f"scaled_dot_product_attention: query {q.shape}, key {k.shape} and value {v.shape} do not fit; "
            "they must be (..., L, E), (..., S, E) and (..., S, V)"
        )
    if attn_mask is not None and is_causal:
        raise ValueError("scaled_dot_product_attention takes attn_mask or is_causal=True, not both")
    if not 0 <= dropout_p <= 1:
        raise ValueError(f"scaled_dot_product_attention: dropout_p must be in [0, 1], got {dropout_p}")
    bias = attn_mask
    if bias is not None and bias.dtype.kind == "b":
        zero, never = q.dtype.type(0), q.dtype.type(-math.inf)
        bias = Tensor(xp_of(q.array).where(bias.array, zero, never))
    heads = q.shape[-3] if q.ndim > 2 else 1
    if enable_gqa:
        q, k, v, bias = _grouped(q, k, v, bias)
    xp = xp_of(q.array)
    lead = xp.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    places = (*lead, q.shape[-2], k.shape[-2])
    kept = draw_kept(q.array, places, dropout_p) if dropout_p else None
    y = _attention(
        q, k, v, bias, causal=is_causal, scale=1 / math.sqrt(max(1, q.shape[-1])) if scale is None else float(scale),
        kept=kept, kept_scale=1 / (1 - dropout_p) if dropout_p < 1 else 0.0,
    )  # fmt: skip
    return y.reshape(*y.shape[:-4], heads, *y.shape[-2:]) if enable_gqa else y


def _grouped(q: Any, k: Any, v: Any, bias: Any) -> tuple[Any, Any, Any, Any]:
    """Heads (..., G H) of query as (..., H, G), and those of key and value as (..., H, 1)."""
    if min(q.ndim, k.ndim, v.ndim) < 3 or k.shape[-3] != v.shape[-3] or not k.shape[-3] or q.shape[-3] % k.shape[-3]:
        raise ValueError(
            f"scaled_dot_product_attention with enable_gqa: query {q.shape} must have a multiple of the heads of key "
            f"{k.shape} and value {v.shape}, which must have as many; heads are the third dimension from the end"
        )
    heads = k.shape[-3]
    groups = q.shape[-3] // heads

    def apart(x: Any) -> Any:
        return x.reshape(*x.shape[:-3], heads, groups, *x.shape[-2:])

    if bias is not None and bias.ndim > 2:
        bias = unsqueeze(bias, -3) if bias.shape[-3] == 1 else apart(bias)
    return apart(q), unsqueeze(k, -3), unsqueeze(v, -3), bias


@op(halves=True, lowered=True)
def _attention(
    q: Any, k: Any, v: Any, bias: Any, causal: bool, scale: float, kept: Array | None, kept_scale: float
) -> Any:
    same_dtype("scaled_dot_product_attention", q, k, v, bias)
    xp = xp_of(q)
    lead = xp.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    wide = [xp.broadcast_to(a, lead + a.shape[-2:]) for a in (q, k, v)]
    places = (*lead, q.shape[-2], k.shape[-2])
    options: dict[str, Any] = {"causal": causal, "scale": scale, "kept": kept, "kept_scale": kept_scale}
    options["bias"] = None if bias is None else xp.broadcast_to(bias, places)
    kernels = backend_of(q)
    y, log_sums = kernels.attention(*wide, **options)

    def pullback(g: Array, needs: Sequence[bool]) -> list[Array | None]:
        made = kernels.attention_grad(g, *wide, y, log_sums, **options, needs_bias=needs[3])
        return [
            unbroadcast(d, x) if need and d is not None else None
            for d, x, need in zip(made, (q, k, v, bias), needs, strict=False)
        ]

    return y, Joint(pullback)


@_attention.formula
def _(q: Any, k: Any, v: Any, bias: Any, causal: bool, scale: float, kept: Array | None, kept_scale: float) -> Any:
    scores = matmul(q * scale, k.transpose(-1, -2))
    xp = xp_of(scores.array)
    if bias is not None:
        scores = scores + bias
    if causal:
        scores = scores + Tensor(xp.triu(xp.full(scores.shape[-2:], -math.inf, scores.dtype), 1))
    top = scores.array.max(-1, keepdims=True, initial=-math.inf)
    weights = (scores - Tensor(xp.where(top == -math.inf, 0, top).astype(scores.dtype))).exp()
    total = weights.sum(-1, keepdim=True)
    weights = weights / (total + Tensor((total.array == 0).astype(scores.dtype)))
    if kept is not None:
        weights = weights * Tensor(kept * scores.dtype.type(kept_scale))
    return matmul(weights, v)
