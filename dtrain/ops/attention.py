"""Attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dtrain.autograd import Joint, op
from dtrain.backend import Array, backend_of, xp_of
from dtrain.ops.dropout import draw_kept
from dtrain.ops.dtypes import same_dtype, unbroadcast

__all__ = ["scaled_dot_product_attention"]


@op
def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Any:
    """softmax(scale query key^T + bias) value.  query: (..., L, E), key: (..., S, E), value: (..., S, V) -> (..., L, V)

    Vaswani et al., arXiv:1706.03762. scale: 1 / sqrt(E) unless given. attn_mask, broadcast to (..., L, S): a bool is
    true where a query may look at a key, numbers are the bias. is_causal: query i sees keys 0 to i. A query that sees
    no key gives zeros. Weights are dropped with probability dropout_p, as `dropout` does. Leading dimensions broadcast.
    The weights are made block by block, in forward and again in backward: memory does not grow with L * S.
    Raises ValueError where the shapes do not fit, for a mask beside is_causal, and for dropout_p outside [0, 1].
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
        bias = xp_of(q).where(bias, q.dtype.type(0), q.dtype.type(-math.inf))
    same_dtype("scaled_dot_product_attention", q, k, v, bias)
    xp = xp_of(q)
    lead = xp.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    wide = [xp.broadcast_to(a, lead + a.shape[-2:]) for a in (q, k, v)]
    places = (*lead, q.shape[-2], k.shape[-2])
    if bias is not None:
        bias = xp.broadcast_to(bias, places)
    kept = draw_kept(q, places, dropout_p) if dropout_p else None
    kernels = backend_of(q)
    options = {
        "bias": bias,
        "causal": is_causal,
        "scale": 1 / math.sqrt(max(1, q.shape[-1])) if scale is None else scale,
        "kept": kept,
        "kept_scale": 1 / (1 - dropout_p) if dropout_p < 1 else 0.0,
    }
    y, log_sums = kernels.attention(*wide, **options)

    def pullback(g: Array, needs: Sequence[bool]) -> list[Array | None]:
        needs_bias = len(needs) > 3 and needs[3]
        made = kernels.attention_grad(g, *wide, y, log_sums, **options, needs_bias=needs_bias)
        return [
            unbroadcast(d, x) if need and d is not None else None
            for d, x, need in zip(made, (q, k, v, attn_mask), (*needs, False, False), strict=False)
        ]

    return y, Joint(pullback)
