"""Attention and Transformers beside PyTorch's, for what its own samples do not show."""

from __future__ import annotations

import copy
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.nn import functional as F

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")

RNG = np.random.default_rng(0)
N, L, S, E, HEADS = 2, 3, 5, 8, 4
FLOATS = RNG.standard_normal((L, S))
BOOLS = RNG.random((L, S)) < 0.3
PADDING = np.arange(S) >= np.array([[S], [S - 2]])


def same(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-6, atol=1e-9)


def compare(
    torch: Any, name: str, options: dict[str, Any], inputs: list[np.ndarray], given: dict[str, Any]
) -> tuple[Any, Any]:
    """Outputs and gradients of dtrain's module and PyTorch's of one name: the same. Returns the modules."""
    theirs = getattr(torch.nn, name)(**options).double()
    ours = getattr(nn, name)(**options).double()
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    found = []
    for module, make in ((ours, dtrain.tensor), (theirs, torch.tensor)):
        xs = [make(x, requires_grad=True) for x in inputs]
        masks = {k: make(v) if isinstance(v, np.ndarray) else v for k, v in given.items()}
        for mask in masks.values():
            if not isinstance(mask, bool) and mask.dtype in (dtrain.float64, torch.float64):
                mask.requires_grad_()
        outputs = module(*xs, **masks)
        outputs = [y for y in outputs if y is not None] if isinstance(outputs, tuple) else [outputs]
        sum((y**3).sum() for y in outputs).backward()
        leaves = [*xs, *[m for m in masks.values() if not isinstance(m, bool)]]
        grads = [t.grad for t in leaves if t.requires_grad]
        found.append([*outputs, *grads, *[p.grad for _, p in sorted(module.named_parameters())]])
    assert len(found[0]) == len(found[1])
    for a, b in zip(*found, strict=True):
        same(a, b)
    return ours, theirs


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False}, {"kdim": 6, "vdim": 7}, {"add_bias_kv": True}, {"add_zero_attn": True, "add_bias_kv": True}],
    ids=str,
)
@pytest.mark.parametrize(
    "masks",
    [
        {},
        {"attn_mask": FLOATS},
        {"attn_mask": BOOLS},
        {"key_padding_mask": PADDING},
        {"attn_mask": RNG.standard_normal((N * HEADS, L, S)), "key_padding_mask": np.where(PADDING, -np.inf, 0.5)},
    ],
    ids=["no mask", "numbers", "bools", "padding", "both"],
)
def test_multihead_attention(torch: Any, masks: dict[str, Any], options: dict[str, Any], need_weights: bool) -> None:
    sizes = [(L, E), (S, options.get("kdim", E)), (S, options.get("vdim", E))]
    inputs = [RNG.standard_normal((n, N, size)) for n, size in sizes]
    given = {**masks, "need_weights": need_weights, "average_attn_weights": "kdim" not in options}
    compare(torch, "MultiheadAttention", {"embed_dim": E, "num_heads": HEADS, **options}, inputs, given)


def test_one_tensor_for_all_and_one_for_keys_and_values(torch: Any) -> None:
    ours, theirs = nn.MultiheadAttention(E, HEADS).double(), torch.nn.MultiheadAttention(E, HEADS).double()
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    x, y = RNG.standard_normal((L, N, E)), RNG.standard_normal((S, N, E))
    a, b, c, d = dtrain.tensor(x), dtrain.tensor(y), torch.tensor(x), torch.tensor(y)
    for ins, outs in (((a, a, a), (c, c, c)), ((a, b, b), (c, d, d)), ((a[:, 0], b[:, 0], b[:, 0]), (c[:, 0], d[:, 0], d[:, 0]))):  # fmt: skip  # noqa: E501
        for got, want in zip(ours(*ins), theirs(*outs), strict=True):
            same(got, want)


def test_static_keys_and_values(torch: Any) -> None:
    w, b, out = RNG.standard_normal((3 * E, E)), RNG.standard_normal(3 * E), RNG.standard_normal((E, E))
    xs = [RNG.standard_normal((n, N, E)) for n in (L, S, S)]
    static = [RNG.standard_normal((N * HEADS, S, E // HEADS)) for _ in range(2)]
    found = []
    for make, f in ((dtrain.tensor, F), (torch.tensor, torch.nn.functional)):
        q, k, v = map(make, xs)
        found.append(
            f.multi_head_attention_forward(
                q, k, v, E, HEADS, make(w), make(b), None, None, False, 0.0, make(out), None,
                static_k=make(static[0]), static_v=make(static[1]),
            )
        )  # fmt: skip
    for got, want in zip(*found, strict=True):
        same(got, want)


@pytest.mark.parametrize("mask", [None, "bool", "numbers", "per head", "causal"])
def test_groups_of_query_heads_share_keys(torch: Any, mask: str | None) -> None:
    q, k, v = (RNG.standard_normal(s) for s in ((N, 6, L, 4), (N, 2, S, 4), (N, 2, S, 3)))
    m = {"bool": ~BOOLS, "numbers": FLOATS[None, None], "per head": RNG.standard_normal((N, 6, L, S))}.get(mask or "")
    found = []
    for make, f in ((dtrain.tensor, F), (torch.tensor, torch.nn.functional)):
        xs = [make(x, requires_grad=True) for x in (q, k, v)]
        given = {"attn_mask": None if m is None else make(m), "is_causal": mask == "causal", "enable_gqa": True}
        y = f.scaled_dot_product_attention(*xs, **given)
        (y**2).sum().backward()
        found.append([y, *[x.grad for x in xs]])
    for got, want in zip(*found, strict=True):
        same(got, want)


def test_the_formula_of_attention_is_its_kernel() -> None:
    """In a walk with create_graph the formula takes the kernel's place: the gradients are the same."""
    kept = [dtrain.tensor(RNG.standard_normal(s), requires_grad=True) for s in ((2, L, 4), (2, S, 4), (2, S, 3))]
    unseen = np.where(np.arange(L)[:, None] == 1, -np.inf, FLOATS)
    for given in (
        {},
        {"is_causal": True, "scale": 0.3},
        {"attn_mask": dtrain.tensor(unseen, requires_grad=True)},
        {"dropout_p": 0.4},
    ):
        y = F.scaled_dot_product_attention(*kept, **given)
        leaves = [*kept, *[t for t in given.values() if isinstance(t, dtrain.Tensor)]]
        weights = dtrain.tensor(RNG.standard_normal(y.shape))
        once = dtrain.autograd.grad(y, leaves, weights, retain_graph=True)
        again = dtrain.autograd.grad(y, leaves, weights, create_graph=True)
        for a, b in zip(once, again, strict=True):
            same(a, b)
            assert b.requires_grad and np.isfinite(a.array).all()


CAUSAL = nn.Transformer.generate_square_subsequent_mask


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_with_masks(torch: Any, norm_first: bool, batch_first: bool) -> None:
    options = {
        "d_model": E, "nhead": HEADS, "num_encoder_layers": 2, "num_decoder_layers": 2, "dim_feedforward": 5,
        "dropout": 0.0, "activation": "gelu", "norm_first": norm_first, "batch_first": batch_first,
    }  # fmt: skip
    inputs = [RNG.standard_normal((N, n, E) if batch_first else (n, N, E)) for n in (S, L)]
    masks = {
        "src_mask": RNG.random((S, S)) < 0.2, "tgt_mask": CAUSAL(L).numpy() > -1, "memory_mask": BOOLS,
        "src_key_padding_mask": PADDING, "tgt_key_padding_mask": PADDING[:, :L], "memory_key_padding_mask": PADDING,
    }  # fmt: skip
    masks["tgt_mask"] = ~masks["tgt_mask"]
    for name in ("src_mask", "memory_mask"):
        masks[name] = masks[name] & (np.arange(S) != 0)  # every query sees a key
    compare(torch, "Transformer", options, inputs, masks)
    compare(torch, "Transformer", options, inputs, {"tgt_mask": masks["tgt_mask"], "tgt_is_causal": True})


def test_decoder_and_encoder_and_the_causal_mask(torch: Any) -> None:
    same(CAUSAL(4), torch.nn.Transformer.generate_square_subsequent_mask(4))
    assert CAUSAL(2, dtype=dtrain.float64).dtype == dtrain.float64
    for kind, count in (("Encoder", 1), ("Decoder", 2)):
        theirs = getattr(torch.nn, f"Transformer{kind}Layer")(E, HEADS, 5, 0.0, "gelu")
        ours = getattr(nn, f"Transformer{kind}Layer")(E, HEADS, 5, 0.0, "gelu")
        their_stack = getattr(torch.nn, f"Transformer{kind}")(theirs, 2, torch.nn.LayerNorm(E)).double()
        our_stack = getattr(nn, f"Transformer{kind}")(ours, 2, nn.LayerNorm(E)).double()
        our_stack.load_state_dict({k: v.numpy() for k, v in their_stack.state_dict().items()})
        xs = [RNG.standard_normal((n, N, E)) for n in (L, S)[:count]]
        name = "mask" if kind == "Encoder" else "tgt_mask"
        mask = CAUSAL(L, dtype=dtrain.float64)
        want = their_stack(*map(torch.tensor, xs), **{name: torch.tensor(mask.numpy())})
        same(our_stack(*map(dtrain.tensor, xs), **{name: mask}), want)
        copy.deepcopy(our_stack)


def t(*shape: int) -> Any:
    return dtrain.zeros(*shape)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(t(L, N, E), t(S, E), t(S, E)), r"query \(3, 2, 8\), key \(5, 8\)"),
        (lambda m: m(t(L, N, E), t(S, 3, E), t(S, 3, E)), r"\(3, 2, 8\), key \(5, 3, 8\)"),
        (lambda m: m(t(L, N, 4), t(S, N, E), t(S, N, E)), r"\(3, 2, 4\) must end in embed_dim = 8"),
        (lambda m: m(t(L, N, E), t(S, N, E), t(S, N, E), t(S, N) > 0), r"\(5, 2\) does not fit key .* \(2, 5\)"),
        (lambda m: m(t(L, N, E), t(S, N, E), t(S, N, E), attn_mask=t(S, S)), r"attn_mask \(5, 5\)"),
        (lambda m: m(t(L, N, E), t(S, N, E), t(S, N, E), is_causal=True), "give that as well"),
        (lambda m: m(t(L, N, E), t(S, N, E), t(S, N, E), attn_mask=t(L, S).long()), "int64"),
        (lambda _: nn.MultiheadAttention(6, 4), "6 must be a multiple of num_heads 4"),
        (lambda _: nn.TransformerEncoderLayer(E, HEADS, activation="sine"), "sine"),
        (lambda _: nn.Transformer(E, HEADS, 1, 1, 4)(t(S, 3, E), t(L, N, E)), r"\(5, 3, 8\) and tgt \(3, 2, 8\)"),
        (lambda _: nn.Transformer(E, HEADS, 1, 1, 4)(t(S, N, 4), t(L, N, 4)), "d_model = 8"),
        (lambda _: F.scaled_dot_product_attention(t(3, L, E), t(2, S, E), t(2, S, E), enable_gqa=True), "multiple"),
    ],
)
def test_what_does_not_fit(call: Callable[..., Any], message: str) -> None:
    with pytest.raises((ValueError, RuntimeError, TypeError), match=message):
        call(nn.MultiheadAttention(E, HEADS))


@pytest.mark.parametrize("causal", [False, True])
def test_long_sequences_do_not_store_the_matrix_of_scores(causal):
    """Its 4096 x 4096 numbers would be 64 MiB, there and back; the blocks are of a few hundred KiB."""
    q, k, v = (dtrain.randn(4096, 8, requires_grad=True) for _ in range(3))
    tracemalloc.start()
    try:
        F.scaled_dot_product_attention(q, k, v, is_causal=causal).sum().backward()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20 and all(t.grad is not None for t in (q, k, v))
