"""GPT-2 beside a short one of PyTorch's, with Hugging Face's keys."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import models

from .reference import compare, random_state, set_random

SMALL = {"vocab_size": 31, "n_positions": 12, "n_embd": 24, "n_layer": 2, "n_head": 3}
NO_DROPOUT = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}


def twin(vocab_size: int, n_positions: int, n_embd: int, n_layer: int, n_head: int) -> Any:
    """GPT2LMHeadModel after Hugging Face's, in PyTorch."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra: torch)")
    nn = torch.nn

    class Conv1D(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.empty(inputs, outputs)), nn.Parameter(torch.empty(outputs))

        def forward(self, x: Any) -> Any:
            return x @ self.weight + self.bias

    class Attention(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.c_attn, self.c_proj = Conv1D(n_embd, 3 * n_embd), Conv1D(n_embd, n_embd)

        def forward(self, x: Any) -> Any:
            n, t, c = x.shape
            q, k, v = (a.view(n, t, n_head, -1).transpose(1, 2) for a in self.c_attn(x).split(c, dim=2))
            scores = q @ k.transpose(2, 3) / math.sqrt(c // n_head)
            scores = scores.masked_fill(torch.ones(t, t).triu(1).bool(), -torch.inf)
            return self.c_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, c))

    class MLP(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.c_fc, self.c_proj = Conv1D(n_embd, 4 * n_embd), Conv1D(4 * n_embd, n_embd)

        def forward(self, x: Any) -> Any:
            x = self.c_fc(x)
            return self.c_proj(0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.attn = nn.LayerNorm(n_embd), Attention()
            self.ln_2, self.mlp = nn.LayerNorm(n_embd), MLP()

        def forward(self, x: Any) -> Any:
            x = x + self.attn(self.ln_1(x))
            return x + self.mlp(self.ln_2(x))

    class GPT2(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.transformer = nn.Module()
            self.transformer.wte = nn.Embedding(vocab_size, n_embd)
            self.transformer.wpe = nn.Embedding(n_positions, n_embd)
            self.transformer.h = nn.ModuleList([Block() for _ in range(n_layer)])
            self.transformer.ln_f = nn.LayerNorm(n_embd)
            self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
            self.lm_head.weight = self.transformer.wte.weight

        def forward(self, ids: Any) -> Any:
            part = self.transformer
            x = part.wte(ids) + part.wpe(torch.arange(ids.shape[1]))
            for block in part.h:
                x = block(x)
            return self.lm_head(part.ln_f(x))

    return GPT2()


def tokens(n: int, t: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=2)).integers(0, SMALL["vocab_size"], (n, t))


@pytest.mark.parametrize("length", [1, 7, 12])
def test_logits_and_gradients_are_those_of_the_twin(length: int) -> None:
    ours, theirs = models.GPT2LMHeadModel(**SMALL, **NO_DROPOUT), twin(**SMALL)
    set_random(ours, theirs)
    compare(ours, theirs, tokens(3, length), gradients=True)


def test_the_published_size_has_the_published_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("normal_", "uniform_"):
        monkeypatch.setattr(dtrain.Tensor, name, lambda tensor, *args, **options: tensor)
    shapes = {name: value.shape for name, value in models.gpt2().state_dict().items()}
    assert len(shapes) == 149 and sum(math.prod(s) for s in shapes.values()) == 124_439_808 + 50257 * 768
    assert shapes["transformer.wte.weight"] == shapes["lm_head.weight"] == (50257, 768)
    assert shapes["transformer.h.11.attn.c_attn.weight"] == (768, 2304)
    assert shapes["transformer.h.0.mlp.c_proj.weight"] == (3072, 768)
    assert shapes["transformer.wpe.weight"] == (1024, 768)


@pytest.mark.parametrize("prefixed", [False, True])
def test_weights_of_either_key_set(prefixed: bool) -> None:
    """GPT2Model's keys lack "transformer."; published files have masks among the weights, and no lm_head."""
    theirs = twin(**SMALL)
    full = random_state(theirs)
    full["lm_head.weight"] = full["transformer.wte.weight"]
    state = dict(full)
    if not prefixed:
        del state["lm_head.weight"]
        state = {name.removeprefix("transformer."): value for name, value in state.items()}
        for layer in range(2):
            state[f"h.{layer}.attn.bias"] = np.tril(np.ones((1, 1, 12, 12), np.float32))
            state[f"h.{layer}.attn.masked_bias"] = np.float32(-1e4)
    whole, base = models.GPT2LMHeadModel(**SMALL).eval(), models.GPT2Model(**SMALL).eval()
    whole.load_state_dict(state)
    base.load_state_dict(state)
    for name, value in full.items():
        np.testing.assert_array_equal(whole.state_dict()[name].numpy(), value)
    assert "lm_head.weight" not in base.state_dict()
    ids = dtrain.tensor(tokens(2, 5))
    with dtrain.no_grad():
        assert whole.lm_head(base(ids)).tolist() == whole(ids).tolist()
    with pytest.raises(RuntimeError, match=r"unexpected: transformer.h.0.attn.c_attn.scale"):
        whole.load_state_dict(full | {"transformer.h.0.attn.c_attn.scale": np.ones(3)})


def test_the_last_layer_and_the_embedding_are_one() -> None:
    model = models.char_gpt(11, context=6)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert sum(p.numel() for p in model.parameters()) == 11 * 128 + 6 * 128 + 4 * 198_272 + 256
    assert "lm_head.weight" not in dict(model.named_parameters())


def test_generate() -> None:
    """Greedy text is what the largest logits say; drawn text depends on the seed alone; the window slides."""
    model = models.GPT2LMHeadModel(**SMALL)
    model.load_state_dict({name: 3 * value for name, value in random_state(twin(**SMALL)).items()}, strict=False)
    start = dtrain.tensor(tokens(2, 4))
    greedy = model.generate(start, 10, temperature=0)
    assert model.training and greedy.shape == (2, 14) and greedy[:, :4].tolist() == start.tolist()
    model.eval()
    with dtrain.no_grad():
        for t in range(4, 14):
            expected = model(greedy[:, max(0, t - 12) : t]).argmax(2)[:, -1]
            assert greedy[:, t].tolist() == expected.tolist()
    drawn = []
    for seed in (1, 1, 2):
        dtrain.manual_seed(seed)
        drawn.append(model.generate(start, 10, temperature=2.0).tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    assert model.generate(start, 10, top_k=1).tolist() == greedy.tolist()


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="n_head=5 must divide n_embd=24"):
        models.GPT2Model(**{**SMALL, "n_head": 5})
    with pytest.raises(ValueError, match=r"13 tokens, in input_ids of shape \(2, 13\), of 12 positions"):
        models.GPT2Model(**SMALL)(dtrain.tensor(tokens(2, 13)))
