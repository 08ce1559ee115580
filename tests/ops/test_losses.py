"""Losses, distances and draws beside PyTorch, where its own samples do not show all of them."""

import numpy as np
import pytest

import dtrain
from dtrain.nn import functional as F
from dtrain.ops.draws import drawn_dtype, next_draw
from dtrain.ops.pointwise_loss import reduced

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((2, 5, 4))
CLASSES = np.array([0, 3, 1, 1, 2])
LISTS = np.array([[0, 2, -1, 1], [3, -1, 0, 0], [-1, 1, 2, 3], [0, 1, 2, 3], [2, -1, -1, -1]])

CALLS = {
    "cdist": (X, Y),
    "cosine_similarity": (X, Y),
    "multi_margin_loss": (X, CLASSES),
    "multilabel_margin_loss": (X, LISTS),
    "pairwise_distance": (X, Y),
}


@pytest.mark.parametrize(("name", "args"), CALLS.items())
def test_values_and_gradients_are_pytorchs(name, args):
    torch = pytest.importorskip("torch")
    of_torch = getattr(torch.nn.functional, name, None) or getattr(torch, name)
    found = []
    for function, make in ((getattr(F, name), dtrain.tensor), (of_torch, torch.tensor)):
        tensors = [make(a) for a in args]
        tensors[0].requires_grad_()
        value = function(*tensors)
        value.sum().backward()
        found.append((value.detach().numpy(), tensors[0].grad.numpy()))
    for got, want in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_reductions():
    loss = dtrain.tensor([1.0, 2, 6])
    assert [reduced(loss, r).tolist() for r in ("none", "sum", "mean")] == [[1, 2, 6], 9, 3]
    assert reduced(loss, "mean", 4.5).item() == 2
    with pytest.raises(ValueError, match="reduction must be 'mean', 'sum' or 'none', got 'max'"):
        reduced(loss, "max")
    weight = dtrain.tensor([1.0, 0, 1])
    assert F.l1_loss(loss, dtrain.zeros(3), weight=weight).item() == 7 / 2


def test_gumbel_softmax_draws_classes_by_their_probability():
    dtrain.manual_seed(0)
    logits = dtrain.tensor(np.log([[0.2, 0.5, 0.3]] * 4000)).requires_grad_()
    hard = F.gumbel_softmax(logits, tau=0.5, hard=True)
    assert ((hard == 0) | (hard == 1)).all() and (hard.sum(1) == 1).all()
    np.testing.assert_allclose(hard.detach().mean(0).numpy(), [0.2, 0.5, 0.3], atol=0.03)
    (hard * dtrain.tensor([1.0, 2, 3], dtype=dtrain.float64)).sum().backward()
    assert np.abs(logits.grad.numpy()).sum() > 0
    dtrain.manual_seed(0)
    assert (F.gumbel_softmax(logits, tau=0.5, hard=True) == hard).all()


def test_draws_differ_from_call_to_call():
    x = np.zeros(3, np.float16)
    assert drawn_dtype(x) == np.float32 and drawn_dtype(np.zeros(3)) == np.float64
    assert (next_draw().random(8) != next_draw().random(8)).any()
