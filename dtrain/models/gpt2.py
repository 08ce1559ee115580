"""GPT-2: a decoder of text. Radford et al., "Language models are unsupervised multitask learners", 2019."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dtrain import nn
from dtrain.autograd import Tensor, no_grad
from dtrain.backend.random import Purpose, next_stream
from dtrain.models.published import rename_keys, with_weights
from dtrain.nn import functional as F
from dtrain.ops.creation import empty, zeros

__all__ = ["GPT2LMHeadModel", "GPT2Model", "char_gpt", "gpt2"]


class _Conv1D(nn.Module):
    """y = x W + b.  x: (..., inputs) -> (..., outputs).  weight: (inputs, outputs), nn.Linear's transposed."""

    def __init__(self, inputs: int, outputs: int, std: float = 0.02) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.normal_(empty(inputs, outputs), 0, std))
        self.bias = nn.Parameter(zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.T, self.bias)


class _Attention(nn.Module):
    """Each token looks at those before it, and at itself.  (N, T, n_embd) -> the same"""

    def __init__(self, n_embd: int, n_head: int, attn_pdrop: float, resid_pdrop: float, std: float) -> None:
        super().__init__()
        self.heads, self.dropout_p = n_head, attn_pdrop
        self.c_attn = _Conv1D(n_embd, 3 * n_embd)
        self.c_proj = _Conv1D(n_embd, n_embd, std)
        self.resid_dropout = nn.Dropout(resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        q, k, v = self.c_attn(x).view(n, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind()
        y = F.scaled_dot_product_attention(
            q, k, v, dropout_p=self.dropout_p if self.training else 0.0, is_causal=True
        )  # fmt: skip
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(n, t, width)))


class _MLP(nn.Module):
    """(..., n_embd) -> the same, by way of n_inner features."""

    def __init__(self, n_embd: int, n_inner: int, resid_pdrop: float, std: float) -> None:
        super().__init__()
        self.c_fc = _Conv1D(n_embd, n_inner)
        self.c_proj = _Conv1D(n_inner, n_embd, std)
        self.dropout = nn.Dropout(resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))


class _Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self, n_embd: int, n_head: int, n_inner: int, attn_pdrop: float, resid_pdrop: float, eps: float, std: float
    ) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(n_embd, eps=eps)
        self.attn = _Attention(n_embd, n_head, attn_pdrop, resid_pdrop, std)
        self.ln_2 = nn.LayerNorm(n_embd, eps=eps)
        self.mlp = _MLP(n_embd, n_inner, resid_pdrop, std)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT2Model(nn.Module):
    """Tokens to hidden states.  input_ids: (N, T) whole numbers, T <= n_positions -> (N, T, n_embd)

    n_inner: features within the MLPs, 4 n_embd unless given. embd_pdrop, attn_pdrop, resid_pdrop: dropout of the sum of
    embeddings, of attention's weights, and before each residual sum. Keys are those of Hugging Face's GPT2Model; the
    weights of GPT2LMHeadModel, whose keys begin with "transformer.", load as well.
    Raises ValueError for a width that n_head does not divide, and for more tokens than positions.
    """

    def __init__(
        self,
        vocab_size: int = 50257,
        n_positions: int = 1024,
        n_embd: int = 768,
        n_layer: int = 12,
        n_head: int = 12,
        n_inner: int | None = None,
        embd_pdrop: float = 0.1,
        attn_pdrop: float = 0.1,
        resid_pdrop: float = 0.1,
        layer_norm_epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        if n_embd % n_head:
            raise ValueError(f"n_head={n_head} must divide n_embd={n_embd}")
        self.n_positions = n_positions
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.wpe = nn.Embedding(n_positions, n_embd)
        for embedding in (self.wte, self.wpe):
            nn.init.normal_(embedding.weight, 0, 0.02)
        self.drop = nn.Dropout(embd_pdrop)
        std = 0.02 / math.sqrt(2 * n_layer)  # so that the sum of all branches does not grow with their number
        options = (n_embd, n_head, n_inner or 4 * n_embd, attn_pdrop, resid_pdrop, layer_norm_epsilon, std)
        self.h = nn.ModuleList([_Block(*options) for _ in range(n_layer)])
        self.ln_f = nn.LayerNorm(n_embd, eps=layer_norm_epsilon)
        self.register_load_state_dict_pre_hook(_keys_of_base)

    def forward(self, input_ids: Tensor) -> Tensor:
        t = input_ids.shape[-1]
        if t > self.n_positions:
            raise ValueError(f"{t} tokens, in input_ids of shape {input_ids.shape}, of {self.n_positions} positions")
        x = self.drop(self.wte(input_ids) + self.wpe.weight[:t])
        for block in self.h:
            x = block(x)
        return self.ln_f(x)


class GPT2LMHeadModel(nn.Module):
    """Tokens to the logits of the next one.  input_ids: (N, T) -> (N, T, vocab_size)

    The options are GPT2Model's. The weights of the last layer are those of the token embedding. Keys are those of
    Hugging Face's GPT2LMHeadModel; the weights of GPT2Model, whose keys lack "transformer.", load as well.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.transformer = GPT2Model(**options)
        vocab_size, n_embd = self.transformer.wte.weight.shape
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight
        self.register_load_state_dict_pre_hook(_keys_of_whole)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.lm_head(self.transformer(input_ids))

    @no_grad()
    def generate(
        self, input_ids: Tensor, max_new_tokens: int, temperature: float = 1.0, top_k: int | None = None
    ) -> Tensor:
        """input_ids and max_new_tokens more, drawn from what the model expects.  (N, T) -> (N, T + max_new_tokens)

        temperature: the logits are divided by it; 0 takes the largest. top_k: only the k most probable are drawn.
        The model sees the last n_positions tokens. What is drawn is a function of the seed (`dtrain.manual_seed`).
        """
        training = self.training
        self.eval()
        ids = input_ids.array
        for _ in range(max_new_tokens):
            logits = self(Tensor(ids[:, -self.transformer.n_positions :])).array[:, -1].astype(np.float64)
            if top_k is not None and top_k < logits.shape[1]:
                logits[logits < np.partition(logits, -top_k)[:, [-top_k]]] = -np.inf
            if temperature:  # the largest of logits with Gumbel's noise is a draw from their softmax
                noise = next_stream(Purpose.NO_GRAD).gumbel(size=logits.shape)
                logits = logits / temperature + noise
            ids = np.concatenate([ids, logits.argmax(1)[:, None].astype(ids.dtype)], 1)
        self.train(training)
        return Tensor(ids)


def _without_masks(key: str) -> str | None:
    """None for the masks that older files have: h.0.attn.bias, h.0.attn.masked_bias."""
    return None if key.endswith((".attn.bias", ".attn.masked_bias")) else key


def _keys_of_base(module: nn.Module, state: Any, prefix: str, *_: Any) -> None:
    """From GPT2LMHeadModel's keys to GPT2Model's, which stay as they are."""
    rename_keys(
        state, prefix, lambda key: None if key == "lm_head.weight" else _without_masks(key.removeprefix("transformer."))
    )


def _keys_of_whole(module: nn.Module, state: Any, prefix: str, *_: Any) -> None:
    """From GPT2Model's keys to GPT2LMHeadModel's, which stay as they are; the last layer's weights may be missing."""
    rename_keys(
        state, prefix, lambda key: key if key.startswith(("lm_head.", "transformer.")) else f"transformer.{key}"
    )
    embedding = f"{prefix}transformer.wte.weight"
    if embedding in state:
        state.setdefault(f"{prefix}lm_head.weight", state[embedding])


def gpt2(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> GPT2LMHeadModel:
    """GPT-2, the smallest of the published ones: 124 M parameters. Options: see `GPT2Model`."""
    return with_weights("gpt2", GPT2LMHeadModel, weights, progress, kwargs)


def char_gpt(vocab_size: int, context: int = 128, **kwargs: Any) -> GPT2LMHeadModel:
    """A small GPT-2 for characters: 4 layers of 128 features and 4 heads, 0.8 M parameters, without dropout.

    context: how many characters it sees. Options: see `GPT2Model`.
    """
    small = {"n_embd": 128, "n_layer": 4, "n_head": 4, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
    return GPT2LMHeadModel(vocab_size=vocab_size, n_positions=context, **(small | kwargs))
