"""BERT: an encoder of text. Devlin et al., arXiv:1810.04805."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain import nn
from dtrain.autograd import Tensor
from dtrain.models.published import rename_keys, with_weights
from dtrain.nn import functional as F

__all__ = ["BertModel", "all_minilm_l6_v2", "bert_base_uncased", "sentence_embedding"]


class _Embeddings(nn.Module):
    """norm(word + segment + position).  input_ids, token_type_ids, position_ids: (N, T) -> (N, T, hidden_size)"""

    def __init__(
        self, vocab_size: int, hidden_size: int, positions: int, types: int, pad: int | None, eps: float, dropout: float
    ) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, hidden_size, padding_idx=pad)
        self.position_embeddings = nn.Embedding(positions, hidden_size)
        self.token_type_embeddings = nn.Embedding(types, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, position_ids: Tensor) -> Tensor:
        x = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        return self.dropout(self.LayerNorm(x + self.position_embeddings(position_ids)))


class _SelfAttention(nn.Module):
    """(N, T, hidden_size) -> the same; seen: (N, 1, 1, T) bool, which tokens may be looked at, or None for all."""

    def __init__(self, hidden_size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout_p = heads, dropout
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        n, t, width = x.shape
        q, k, v = (
            layer(x).view(n, t, self.heads, width // self.heads).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v, seen, self.dropout_p if self.training else 0.0)
        return y.transpose(1, 2).reshape(n, t, width)


class _Output(nn.Module):
    """norm(x + dropout(linear(y)))."""

    def __init__(self, inputs: int, hidden_size: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        return self.LayerNorm(x + self.dropout(self.dense(y)))


class _Attention(nn.Module):
    def __init__(self, hidden_size: int, heads: int, attention_dropout: float, eps: float, dropout: float) -> None:
        super().__init__()
        self.self = _SelfAttention(hidden_size, heads, attention_dropout)
        self.output = _Output(hidden_size, hidden_size, eps, dropout)

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        return self.output(self.self(x, seen), x)


class _Intermediate(nn.Module):
    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class _Layer(nn.Module):
    """norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(
        self, hidden_size: int, heads: int, intermediate_size: int, attention_dropout: float, eps: float, dropout: float
    ) -> None:
        super().__init__()
        self.attention = _Attention(hidden_size, heads, attention_dropout, eps, dropout)
        self.intermediate = _Intermediate(hidden_size, intermediate_size)
        self.output = _Output(intermediate_size, hidden_size, eps, dropout)

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        x = self.attention(x, seen)
        return self.output(self.intermediate(x), x)


class _Encoder(nn.Module):
    def __init__(self, layers: list[_Layer]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        for layer in self.layer:
            x = layer(x, seen)
        return x


class _Pooler(nn.Module):
    """tanh(linear(the first token)).  (N, T, hidden_size) -> (N, hidden_size)"""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x[:, 0]).tanh()


class BertModel(nn.Module):
    """Tokens to hidden states.  input_ids: (N, T) whole numbers -> (N, T, hidden_size), and a summary (N, hidden_size)

    attention_mask: (N, T), 0 or false where a token is padding that no other may look at; default: none is.
    token_type_ids: (N, T), the segment of each token, default 0. position_ids: (N, T) or (T,), default 0, 1, ....
    The summary is tanh of a linear layer of the first token; None with add_pooling_layer=False.

    Options and keys are those of Hugging Face's BertModel; the weights of models with heads on top, whose keys begin
    with "bert.", load as well, and those of files that call LayerNorm's weights gamma and beta.
    Raises ValueError for a width that the heads do not divide, and for more tokens than positions.
    """

    def __init__(
        self,
        vocab_size: int = 30522,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        max_position_embeddings: int = 512,
        type_vocab_size: int = 2,
        initializer_range: float = 0.02,
        layer_norm_eps: float = 1e-12,
        pad_token_id: int | None = 0,
        add_pooling_layer: bool = True,
    ) -> None:
        super().__init__()
        if hidden_size % num_attention_heads:
            raise ValueError(f"num_attention_heads={num_attention_heads} must divide hidden_size={hidden_size}")
        eps, dropout = layer_norm_eps, hidden_dropout_prob
        self.embeddings = _Embeddings(
            vocab_size, hidden_size, max_position_embeddings, type_vocab_size, pad_token_id, eps, dropout
        )
        options = (hidden_size, num_attention_heads, intermediate_size, attention_probs_dropout_prob, eps, dropout)
        self.encoder = _Encoder([_Layer(*options) for _ in range(num_hidden_layers)])
        self.pooler = _Pooler(hidden_size) if add_pooling_layer else None
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, 0, initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        if pad_token_id is not None:
            self.embeddings.word_embeddings.weight.array[pad_token_id] = 0
        self.register_load_state_dict_pre_hook(_keys_of_base)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        t, positions = input_ids.shape[-1], self.embeddings.position_embeddings.num_embeddings
        if t > positions:
            raise ValueError(f"{t} tokens, in input_ids of shape {input_ids.shape}, of {positions} positions")
        if token_type_ids is None:
            token_type_ids = Tensor(np.zeros(input_ids.shape, np.int64))
        if position_ids is None:
            position_ids = Tensor(np.arange(t))
        seen = None if attention_mask is None else attention_mask.bool()[:, None, None, :]
        x = self.encoder(self.embeddings(input_ids, token_type_ids, position_ids), seen)
        return x, None if self.pooler is None else self.pooler(x)


def _keys_of_base(module: BertModel, state: Any, prefix: str, *_: Any) -> None:
    """From the keys of models with heads, and of older files, to BertModel's, which stay as they are."""

    def renamed(key: str) -> str | None:
        key = key.removeprefix("bert.").replace("LayerNorm.gamma", "LayerNorm.weight")
        key = key.replace("LayerNorm.beta", "LayerNorm.bias")
        unused = key.startswith("cls.") or key == "embeddings.position_ids"
        return None if unused or (module.pooler is None and key.startswith("pooler.")) else key

    rename_keys(state, prefix, renamed)


def sentence_embedding(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """The mean of the tokens that are no padding, scaled to length 1, as sentence-transformers does with MiniLM.

    hidden: (N, T, C), attention_mask: (N, T) -> (N, C).  Reimers and Gurevych, arXiv:1908.10084.
    """
    weight = attention_mask.to(hidden.dtype)[:, :, None]
    mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
    return mean / (mean * mean).sum(1, keepdim=True).sqrt().clamp(min=1e-12)


def bert_base_uncased(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> BertModel:
    """BERT of 12 layers, for English in lower case: 109.5 M parameters. Options: see `BertModel`."""
    return with_weights("bert-base-uncased", BertModel, weights, progress, kwargs)


def all_minilm_l6_v2(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> BertModel:
    """all-MiniLM-L6-v2, an encoder of sentences (`sentence_embedding`): 22.7 M parameters. Options: see `BertModel`."""
    size = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
    return with_weights("all-MiniLM-L6-v2", BertModel, weights, progress, size | kwargs)
