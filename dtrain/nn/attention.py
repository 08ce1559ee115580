"""Attention with its projections."""

from __future__ import annotations

from typing import Any

from dtrain.autograd import Tensor
from dtrain.nn import init
from dtrain.nn.linear import Linear
from dtrain.nn.module import Module
from dtrain.nn.parameter import Parameter
from dtrain.ops.creation import empty
from dtrain.ops.multi_head_attention import multi_head_attention_forward

__all__ = ["MultiheadAttention"]


class MultiheadAttention(Module):
    """Attention of several heads (Vaswani et al., arXiv:1706.03762); formula: `F.multi_head_attention_forward`.

    MultiheadAttention(embed_dim, num_heads, dropout=0.0, bias=True, add_bias_kv=False, add_zero_attn=False, kdim=None,
    vdim=None, batch_first=False). in_proj_weight: (3 E, E), or for other sizes of keys and values q_proj_weight: (E,
    E), k_proj_weight: (E, kdim) and v_proj_weight: (E, vdim), drawn by xavier_uniform_; in_proj_bias: (3 E,) and
    out_proj.bias: (E,) start at 0; out_proj: Linear(E, E); add_bias_kv: bias_k, bias_v: (1, 1, E), drawn by
    xavier_normal_. dropout: of the weights, in training. Raises ValueError for an embed_dim that num_heads does not
    divide. forward: query (L, N, E), key (S, N, kdim), value (S, N, vdim) -> (L, N, E) and the weights (N, L, S).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if embed_dim <= 0 or num_heads <= 0 or embed_dim % num_heads:
            raise ValueError(f"MultiheadAttention: embed_dim {embed_dim} must be a multiple of num_heads {num_heads}")
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.kdim, self.vdim = embed_dim if kdim is None else kdim, embed_dim if vdim is None else vdim
        self.dropout, self.batch_first, self.add_zero_attn = dropout, batch_first, add_zero_attn
        self._qkv_same_embed_dim = self.kdim == self.vdim == embed_dim

        def parameter(*shape: int) -> Parameter:
            return Parameter(empty(*shape, device=device, dtype=dtype))

        together = self._qkv_same_embed_dim
        self.in_proj_weight = parameter(3 * embed_dim, embed_dim) if together else None
        self.q_proj_weight = None if together else parameter(embed_dim, embed_dim)
        self.k_proj_weight = None if together else parameter(embed_dim, self.kdim)
        self.v_proj_weight = None if together else parameter(embed_dim, self.vdim)
        self.in_proj_bias = parameter(3 * embed_dim) if bias else None
        self.bias_k = parameter(1, 1, embed_dim) if add_bias_kv else None
        self.bias_v = parameter(1, 1, embed_dim) if add_bias_kv else None
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, device=device, dtype=dtype)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                init.zeros_(bias)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                init.xavier_normal_(bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """query: (L, N, E), key: (S, N, kdim), value: (S, N, vdim), N first with batch_first, or all without N.

        Returns (L, N, E), and with need_weights the weights (N, L, S), averaged over heads or (N, heads, L, S).
        key_padding_mask: (N, S), attn_mask: (L, S) or (N heads, L, S): bools are true where nothing is seen, numbers
        are added to the scores. is_causal: attn_mask is the causal one. need_weights=False is faster, and its memory
        does not grow with L * S. Raises ValueError where the shapes do not fit.
        """
        swap = self.batch_first and query.ndim == 3

        def steps_first(x: Tensor) -> Tensor:
            return x.transpose(0, 1) if x.ndim == 3 else x

        if swap:
            q = steps_first(query)
            k = q if key is query else steps_first(key)
            v = k if value is key else steps_first(value)
        else:
            q, k, v = query, key, value
        y, weights = multi_head_attention_forward(
            q, k, v, self.embed_dim, self.num_heads, self.in_proj_weight, self.in_proj_bias, self.bias_k, self.bias_v,
            self.add_zero_attn, self.dropout, self.out_proj.weight, self.out_proj.bias, self.training,
            key_padding_mask, need_weights, attn_mask, not self._qkv_same_embed_dim, self.q_proj_weight,
            self.k_proj_weight, self.v_proj_weight, None, None, average_attn_weights, is_causal,
        )  # fmt: skip
        return (y.transpose(0, 1) if swap else y), weights
