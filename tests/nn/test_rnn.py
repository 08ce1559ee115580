"""Recurrent layers and packed sequences beside PyTorch's, for what its own samples do not show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.backend.random import key
from dtrain.nn.utils import rnn as utils

LENGTHS = [3, 5, 1, 5]
RNG = np.random.default_rng(0)
SEQUENCES = [RNG.standard_normal((n, 3)) for n in LENGTHS]


def pair(torch: Any, name: str, *args: Any, **options: Any) -> tuple[Any, Any]:
    """dtrain's module and PyTorch's of one name with the same weights, in float64."""
    ours, theirs = getattr(nn, name)(*args, **options).double(), getattr(torch.nn, name)(*args, **options).double()
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    return ours, theirs


def same(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("with_states", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("RNN", {"bidirectional": True, "nonlinearity": "relu"}),
        ("LSTM", {"bidirectional": True}),
        ("LSTM", {"bidirectional": True, "proj_size": 2}),
        ("GRU", {"bidirectional": True}),
        ("GRU", {"bias": False}),
    ],
)
def test_packed_sequences(torch: Any, name: str, options: dict[str, Any], with_states: bool) -> None:
    ours, theirs = pair(torch, name, 3, 4, num_layers=2, **options)
    sizes = [options.get("proj_size", 4), 4] if name == "LSTM" else [4]
    states = [RNG.standard_normal((4 if "bidirectional" in options else 2, 4, size)) for size in sizes]
    results = []
    for module, make, pack in (
        (ours, dtrain.tensor, utils.pack_sequence),
        (theirs, torch.tensor, torch.nn.utils.rnn.pack_sequence),
    ):
        xs = [make(s, requires_grad=True) for s in SEQUENCES]
        hx = [make(s, requires_grad=True) for s in states]
        given = (tuple(hx) if name == "LSTM" else hx[0]) if with_states else None
        y, last = module(pack(xs, enforce_sorted=False), given)
        ends = last if name == "LSTM" else (last,)
        ((y.data**2).sum() + sum((e**3).sum() for e in ends)).backward()
        leaves = [*xs, *(hx if with_states else []), *dict(module.named_parameters()).values()]
        results.append([y.data, y.batch_sizes, *ends, *[leaf.grad for leaf in leaves]])
    for a, b in zip(*results, strict=True):
        same(a, b)


def test_a_packed_batch_is_each_sequence_by_itself() -> None:
    model = nn.LSTM(3, 4, num_layers=2, bidirectional=True).double()
    packed, (h, c) = model(utils.pack_sequence([dtrain.tensor(s) for s in SEQUENCES], enforce_sorted=False))
    for i, y in enumerate(utils.unpack_sequence(packed)):
        one, (h1, c1) = model(dtrain.tensor(SEQUENCES[i]))
        for got, want in ((y, one), (h[:, i], h1), (c[:, i], c1)):
            np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-10)


@pytest.mark.parametrize("batch_first", [False, True])
def test_padding_and_packing(torch: Any, batch_first: bool) -> None:
    theirs = torch.nn.utils.rnn
    results = []
    for make, module in ((dtrain.tensor, utils), (torch.tensor, theirs)):
        xs = [make(s, requires_grad=True) for s in SEQUENCES]
        padded = module.pad_sequence(xs, batch_first, padding_value=7.0)
        left = module.pad_sequence(xs, batch_first, padding_side="left")
        packed = module.pack_padded_sequence(padded, make(LENGTHS), batch_first, enforce_sorted=False)
        again, lengths = module.pad_packed_sequence(packed, batch_first, padding_value=-1.0, total_length=6)
        parts = module.unpad_sequence(padded + 0, make(LENGTHS), batch_first)
        unpacked = module.unpack_sequence(packed)
        sum((t**2).sum() for t in (left, again, *parts, *unpacked)).backward()
        results.append([padded, left, *packed, again, lengths, *parts, *unpacked, *[x.grad for x in xs]])
    for a, b in zip(*results, strict=True):
        same(a, b)
    ordered = sorted(SEQUENCES, key=len, reverse=True)
    packed, want = (m.pack_sequence([make(s) for s in ordered]) for m, make in
                    ((utils, dtrain.tensor), (theirs, torch.tensor)))  # fmt: skip
    assert packed.sorted_indices is None and want.sorted_indices is None
    same(packed.data, want.data)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_a_batch_without_sequences(name: str, batch_first: bool) -> None:
    """What a rank has where there are fewer samples than microbatches: gradients of zero."""
    model = getattr(nn, name)(3, 4, num_layers=2, bidirectional=True)
    x = dtrain.zeros(*((0, 5) if batch_first else (5, 0)), 3, requires_grad=True)
    none = dtrain.zeros(0, dtype=dtrain.int64)
    packed, last = model(utils.pack_padded_sequence(x, none, batch_first, enforce_sorted=False))
    y, lengths = utils.pad_packed_sequence(packed, batch_first)
    assert y.shape == ((0, 1, 8) if batch_first else (1, 0, 8)) and lengths.shape == (0,)
    assert (last[0] if name == "LSTM" else last).shape == (4, 0, 4)
    y.sum().backward()
    assert x.grad.shape == x.shape and all(not p.grad.array.any() for p in model.parameters())


def test_a_packed_sequence_in_other_dtypes() -> None:
    packed = utils.pack_sequence([dtrain.tensor(s) for s in SEQUENCES], enforce_sorted=False)
    assert packed.float().data.dtype == np.float32 and packed.half().data.dtype == np.float16
    assert packed.double() is packed and packed.cpu() is packed and packed.pin_memory() is packed
    assert packed.int().data.dtype == np.int32 and packed.long().data.dtype == np.int64 and not packed.is_cuda
    assert utils.invert_permutation(dtrain.tensor([2, 0, 1])).tolist() == [1, 2, 0]
    assert packed.unsorted_indices.tolist() == utils.invert_permutation(packed.sorted_indices).tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: utils.pack_padded_sequence(x, [1, 2, 2]), "not in descending order"),
        (lambda x: utils.pack_padded_sequence(x, [2, 1]), r"\(2,\) do not fit an input of shape \(2, 3, 4\)"),
        (lambda x: utils.pack_padded_sequence(x, [3, 1, 1]), r"in 1 to 2 for an input of shape .*, got 1 to 3"),
        (lambda x: utils.pack_padded_sequence(x, [2, 1, 0]), "got 0 to 2"),
        (lambda x: utils.pad_packed_sequence(utils.pack_padded_sequence(x, [2, 2, 1]), total_length=1), "total_length"),
        (lambda x: utils.pad_sequence([]), "at least one"),
        (lambda x: utils.pad_sequence([x, x[:, :2]]), r"\(2, 3, 4\), \(2, 2, 4\)"),
        (lambda x: utils.pad_sequence([x], padding_side="top"), "'left' or 'right'"),
        (lambda x: nn.LSTM(4, 2)(utils.pack_padded_sequence(x, [2, 2, 1]), (x, x)), r"\(1, 3, 2\), got \(2, 3, 4\)"),
        (lambda x: nn.GRU(5, 2)(x), r"input_size = 5, got shape \(2, 3, 4\)"),
        (lambda x: nn.GRU(4, 2).double()(x), "float32"),
        (lambda x: nn.RNN(4, 2, nonlinearity="sine"), "sine"),
        (lambda x: nn.LSTM(4, 2, dropout=1.5), "1.5"),
        (lambda x: nn.LSTM(4, 2, proj_size=2), "proj_size"),
    ],
)  # fmt: skip
def test_what_does_not_fit(call: Any, message: str) -> None:
    with pytest.raises((RuntimeError, ValueError), match=message):
        call(dtrain.zeros(2, 3, 4))


def test_dropout_between_layers_is_a_function_of_the_step_and_the_microbatch() -> None:
    model, x = nn.GRU(3, 8, num_layers=2, dropout=0.5), dtrain.randn(6, 2, 3)

    def at(step: int, microbatch: int) -> np.ndarray:
        with key.at(1, step, microbatch):
            return model(x)[0].detach().numpy()

    np.testing.assert_array_equal(at(0, 0), at(0, 0))
    assert (at(0, 0) != at(0, 1)).any() and (at(0, 0) != at(1, 0)).any()
    model.eval()
    np.testing.assert_array_equal(at(0, 0), at(0, 1))
    with pytest.warns(UserWarning, match="between layers"):
        nn.GRU(3, 8, dropout=0.5)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes_stay(name: str, dtype: Any) -> None:
    model = getattr(nn, name)(3, 4).to(dtype)
    x = dtrain.Tensor(RNG.standard_normal((2, 2, 3)).astype(dtype), True)
    y, last = model(x)
    y.sum().backward()
    assert {t.dtype for t in (y, x.grad, *([last] if name != "LSTM" else last))} == {np.dtype(dtype)}
    assert {p.grad.dtype for p in model.parameters()} == {np.dtype(dtype)}
