"""CTC where PyTorch's sample inputs do not go: inputs of several lengths, no labels, repeated ones, none that fit."""

from __future__ import annotations

import numpy as np
import pytest

import dtrain
from dtrain.nn import functional as F  # noqa: N812

SCORES = np.random.default_rng(0).standard_normal((7, 4, 5))
TARGETS = np.array([[1, 1, 2], [3, 4, 0], [2, 2, 2], [0, 0, 0]])  # behind the target's length: anything
INPUTS, LABELS = np.array([7, 5, 4, 6]), np.array([3, 2, 3, 0])  # 2 2 2 needs five frames, it has four


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("zero_infinity", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_like_pytorch(reduction, zero_infinity, dtype):
    torch = pytest.importorskip("torch")
    found = []
    for library in (torch, dtrain):
        x = library.from_numpy(SCORES.astype(dtype)).requires_grad_()
        loss = library.nn.CTCLoss(reduction=reduction, zero_infinity=zero_infinity)
        y = loss(x.log_softmax(2), *map(library.from_numpy, (TARGETS, INPUTS, LABELS)))
        y.sum().backward()
        found.append((y.detach().numpy(), x.grad.numpy()))
    (theirs, their_grad), (ours, our_grad) = found
    tolerance = 1e-5 if dtype == "float32" else 1e-10
    np.testing.assert_allclose(ours, theirs, rtol=tolerance)
    assert ours.dtype == dtype
    fits = slice(None) if zero_infinity else [0, 1, 3]  # the gradient of infinity is NaN here and there
    np.testing.assert_allclose(our_grad[:, fits], their_grad[:, fits], rtol=tolerance, atol=tolerance)


def test_one_sample_without_a_batch():
    x = dtrain.tensor(SCORES[:, 0]).log_softmax(1)
    one = F.ctc_loss(x, dtrain.tensor(TARGETS[0]), 7, 3, reduction="none")
    many = F.ctc_loss(x.unsqueeze(1), dtrain.tensor(TARGETS[:1]), (7,), (3,), reduction="none")
    assert one.shape == () and one.item() == many.tolist()[0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"targets": TARGETS[:3]}, r"shape \(3, 3\) do not fit log_probs of shape \(7, 4, 5\)"),
        ({"targets": TARGETS * 2}, r"target 6 is no class"),
        ({"targets": TARGETS * 1.0}, r"integers, .* float64"),
        ({"blank": 5}, "blank must be 0 to 4"),
        ({"input_lengths": (8, 5, 4, 6)}, "input_lengths must be from 0 to 7"),
        ({"target_lengths": (3, 2, 3)}, r"4 whole numbers, one per sample, got shape \(3,\)"),
        ({"reduction": "max"}, "reduction must be"),
    ],
)
def test_errors(changed, message):
    given = {"targets": TARGETS, "input_lengths": INPUTS, "target_lengths": LABELS} | changed
    given["targets"] = dtrain.tensor(given["targets"])
    with pytest.raises(ValueError, match=message):
        F.ctc_loss(dtrain.tensor(SCORES), **given)
