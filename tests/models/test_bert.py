"""BERT beside a short one of PyTorch's, with Hugging Face's keys; MiniLM's published weights; the tokenizer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import hub, models
from tests.hub.packages import MINILM, package_file

from .reference import close, random_state, set_random

SMALL = {"vocab_size": 31, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
SMALL |= {"intermediate_size": 40, "max_position_embeddings": 12}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def twin(
    vocab_size: int,
    hidden_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    intermediate_size: int,
    max_position_embeddings: int,
) -> Any:
    """BertModel after Hugging Face's, in PyTorch: (ids, mask, segments) -> hidden states, pooled."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra: torch)")
    nn = torch.nn
    width = hidden_size

    def group(**modules: Any) -> Any:
        made = nn.Module()
        for name, module in modules.items():
            made.add_module(name, module)
        return made

    def norm() -> Any:
        return nn.LayerNorm(width, eps=1e-12)

    def layer() -> Any:
        return group(
            attention=group(
                self=group(query=nn.Linear(width, width), key=nn.Linear(width, width), value=nn.Linear(width, width)),
                output=group(dense=nn.Linear(width, width), LayerNorm=norm()),
            ),
            intermediate=group(dense=nn.Linear(width, intermediate_size)),
            output=group(dense=nn.Linear(intermediate_size, width), LayerNorm=norm()),
        )

    class Bert(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.embeddings = group(
                word_embeddings=nn.Embedding(vocab_size, width, padding_idx=0),
                position_embeddings=nn.Embedding(max_position_embeddings, width),
                token_type_embeddings=nn.Embedding(2, width),
                LayerNorm=norm(),
            )
            self.encoder = group(layer=nn.ModuleList([layer() for _ in range(num_hidden_layers)]))
            self.pooler = group(dense=nn.Linear(width, width))

        def attention(self, part: Any, x: Any, mask: Any) -> Any:
            n, t, _ = x.shape
            q, k, v = (
                linear(x).view(n, t, num_attention_heads, -1).transpose(1, 2)
                for linear in (part.query, part.key, part.value)
            )
            scores = q @ k.transpose(2, 3) / math.sqrt(width // num_attention_heads)
            scores = scores + (1 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
            return (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, width)

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            e = self.embeddings
            x = e.word_embeddings(ids) + e.token_type_embeddings(types)
            x = e.LayerNorm(x + e.position_embeddings(torch.arange(ids.shape[1])))
            for part in self.encoder.layer:
                a = part.attention
                x = a.output.LayerNorm(x + a.output.dense(self.attention(a.self, x, mask)))
                y = nn.functional.gelu(part.intermediate.dense(x))
                x = part.output.LayerNorm(x + part.output.dense(y))
            return x, torch.tanh(self.pooler.dense(x[:, 0]))

    return Bert()


def batch(n: int = 4, t: int = 9) -> list[np.ndarray]:
    """ids, a mask of a different number of tokens in each row, segments."""
    rng = np.random.Generator(np.random.Philox(key=2))
    mask = (np.arange(t) < rng.integers(1, t + 1, n)[:, None]).astype(np.int64)
    return [rng.integers(0, SMALL["vocab_size"], (n, t)), mask, rng.integers(0, 2, (n, t))]


def test_states_and_gradients_are_those_of_the_twin() -> None:
    theirs = twin(**SMALL)
    import torch

    ours = models.BertModel(**SMALL, **NO_DROPOUT)
    set_random(ours, theirs)
    inputs = batch()
    got, want = ours(*map(dtrain.tensor, inputs)), theirs(*map(torch.from_numpy, inputs))
    g = [
        np.random.Generator(np.random.Philox(key=i)).standard_normal(w.shape).astype(np.float32)
        for i, w in enumerate(want)
    ]
    for a, b in zip(got, want, strict=True):
        close(a.detach().numpy(), b.detach().numpy(), 1e-5, "outputs")
    dtrain.autograd.backward(got, [dtrain.tensor(a) for a in g])
    torch.autograd.backward(want, [torch.from_numpy(a) for a in g])
    expected = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    largest = max(float(np.abs(grad).max()) for grad in expected.values())
    for name, p in ours.named_parameters():
        close(p.grad.numpy(), expected[name], 1e-5, name, largest)


def test_defaults_of_mask_segments_and_positions() -> None:
    model = models.BertModel(**SMALL).eval()
    ids = dtrain.tensor(batch()[0])
    nothing = dtrain.tensor(np.zeros((4, 9), np.int64))
    full = model(ids, nothing + 1, nothing, dtrain.tensor(np.arange(9)))
    assert [t.tolist() for t in model(ids)] == [t.tolist() for t in full]
    assert models.BertModel(**SMALL, add_pooling_layer=False)(ids)[1] is None
    with pytest.raises(ValueError, match=r"13 tokens, in input_ids of shape \(2, 13\), of 12 positions"):
        model(dtrain.tensor(np.zeros((2, 13), np.int64)))
    with pytest.raises(ValueError, match="num_attention_heads=5 must divide hidden_size=24"):
        models.BertModel(**{**SMALL, "num_attention_heads": 5})


def test_weights_of_models_with_heads_and_of_older_files() -> None:
    state = random_state(twin(**SMALL))
    old = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in state.items()
    }
    old |= {"cls.predictions.bias": np.zeros(31), "bert.embeddings.position_ids": np.arange(12)[None]}
    for options in ({}, {"add_pooling_layer": False}):
        model = models.BertModel(**SMALL, **options)
        model.load_state_dict(old)
        for name, value in model.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), state[name])
    with pytest.raises(RuntimeError, match="unexpected: encoder.layer.7.output.dense.bias"):
        model.load_state_dict(old | {"bert.encoder.layer.7.output.dense.bias": np.zeros(24)})


def test_the_published_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("normal_", "uniform_"):
        monkeypatch.setattr(dtrain.Tensor, name, lambda tensor, *args, **options: tensor)
    for model, parameters in ((models.bert_base_uncased, 109_482_240), (models.all_minilm_l6_v2, 22_713_216)):
        assert sum(p.numel() for p in model().parameters()) == parameters


#: With the similarities that sentence-transformers' documentation gives for all-MiniLM-L6-v2 (sbert.net, "Quickstart").
SENTENCES = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
SIMILARITIES = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]


def test_minilm_gives_the_reference_embeddings(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = package_file(*MINILM)
    monkeypatch.setenv("DTRAIN_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "all-MiniLM-L6-v2.safetensors").symlink_to(weights)
    ours = hub.load("huggingface/transformers", "all_minilm_l6_v2", pretrained=True).eval()
    ids, mask = models.WordPiece(package_file(*MINILM[:2], "vocab.txt"))(SENTENCES)
    with dtrain.no_grad():
        embeddings = models.sentence_embedding(ours(ids, mask)[0], mask).numpy()
    np.testing.assert_allclose(embeddings @ embeddings.T, SIMILARITIES, atol=1e-4)

    theirs = twin(30522, 384, 6, 12, 1536, 512)
    import torch

    state = {name: torch.from_numpy(value.numpy()) for name, value in ours.state_dict().items()}
    theirs.load_state_dict(state)
    with torch.no_grad():
        tokens = torch.from_numpy(mask.numpy())
        hidden = theirs(torch.from_numpy(ids.numpy()), tokens, torch.zeros_like(tokens))[0] * tokens[:, :, None]
        want = torch.nn.functional.normalize(hidden.sum(1) / tokens.sum(1, keepdim=True))
    assert np.abs(embeddings - want.numpy()).max() <= 1e-5


def test_word_pieces() -> None:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "cafe", *"!,'sa中文", "##b"]
    tokenizer = models.WordPiece(vocabulary)
    assert tokenizer.tokenize("Unaffable café's,  a!") == ["un", "##aff", "##able", "cafe", "'", "s", ",", "a", "!"]
    assert tokenizer.tokenize("a中文b\u200d\tab unx") == ["a", "中", "文", "[UNK]", "a", "##b", "[UNK]"]
    assert tokenizer.tokenize("a" + "b" * 100) == ["[UNK]"] and tokenizer.tokenize(" \n") == []
    ids, mask = tokenizer(["a", "unaffable", ""])
    assert ids.tolist() == [[2, 12, 3, 0, 0], [2, 4, 5, 6, 3], [2, 3, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1] * 5, [1, 1, 0, 0, 0]]
    assert tokenizer(["unaffable"], max_length=4)[0].tolist() == [[2, 4, 5, 3]]
    assert models.WordPiece(["a", "A", "É", "[UNK]"], lower=False).tokenize("A É e") == ["A", "É", "[UNK]"]
