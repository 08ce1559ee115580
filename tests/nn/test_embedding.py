"""Embedding and EmbeddingBag beside PyTorch's: what PyTorch's samples (tests/parity) do not show."""

from __future__ import annotations

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.autograd import Tensor
from dtrain.comm import run_ranks
from dtrain.nn import functional as F
from dtrain.ops.embedding import check_table, renormalise, scaled_by_frequency

TABLE = np.random.default_rng(0).standard_normal((7, 3)) * 2
FLAT = np.array([1, 5, 5, 0, 2, 2, 6, 1])
SQUARE = FLAT.reshape(2, 4)
STARTS = np.array([0, 3, 3, 5])
FACTORS = np.random.default_rng(1).standard_normal(8)


def compare(torch, name, options, arrays, factors=None):
    """Output, gradients and the table afterwards are PyTorch's; returns the module."""
    ours, theirs = getattr(nn, name)(7, 3, **options).double(), getattr(torch.nn, name)(7, 3, **options).double()
    ours.load_state_dict({"weight": TABLE})
    theirs.load_state_dict({"weight": torch.from_numpy(TABLE.copy())})
    inputs = [[f(a) for a in arrays] for f in (Tensor, torch.from_numpy)]
    more = [{}, {}]
    if factors is not None:
        more = [{"per_sample_weights": f(factors.copy()).requires_grad_()} for f in (Tensor, torch.from_numpy)]
    y, z = ours(*inputs[0], **more[0]), theirs(*inputs[1], **more[1])
    np.testing.assert_allclose(y.array, z.detach().numpy(), rtol=1e-12)
    g = np.random.default_rng(2).standard_normal(y.shape)
    y.backward(Tensor(g))
    z.backward(torch.from_numpy(g.copy()))
    np.testing.assert_allclose(ours.weight.array, theirs.weight.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(ours.weight.grad.array, theirs.weight.grad.numpy(), rtol=1e-12)
    for a, b in zip(more[0].values(), more[1].values(), strict=True):
        np.testing.assert_allclose(a.grad.array, b.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"max_norm": 1.5},
        {"max_norm": 2.0, "norm_type": 1.0},
        {"scale_grad_by_freq": True, "padding_idx": 5},
        {"max_norm": 1.0, "padding_idx": -2, "scale_grad_by_freq": True},
    ],
)
def test_embedding(torch, options):
    compare(torch, "Embedding", options, [SQUARE])


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("options", [{}, {"padding_idx": 5}, {"max_norm": 1.5}])
@pytest.mark.parametrize("arrays", [[SQUARE], [FLAT, STARTS]])
def test_embedding_bag(torch, mode, options, arrays):
    compare(torch, "EmbeddingBag", {"mode": mode, **options}, arrays)


def test_embedding_bag_with_the_last_offset_and_factors(torch):
    compare(torch, "EmbeddingBag", {"mode": "mean", "include_last_offset": True}, [FLAT, np.array([0, 3, 3, 5, 8])])
    compare(torch, "EmbeddingBag", {"mode": "sum"}, [FLAT, STARTS], FACTORS)
    compare(torch, "EmbeddingBag", {"mode": "sum", "padding_idx": 2}, [SQUARE], FACTORS.reshape(2, 4))


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_embedding_bag_by_frequency_is_embedding_by_frequency(mode):
    """PyTorch's divides by counts of other rows: what it gives depends on the order of the input."""
    index, g = dtrain.tensor(SQUARE), dtrain.tensor(np.random.default_rng(2).standard_normal((2, 3)))
    gradients = []
    for bags in (
        lambda table: F.embedding_bag(index, table, mode=mode, scale_grad_by_freq=True),
        lambda table: getattr(F.embedding(index, table, scale_grad_by_freq=True), mode)(1),
    ):
        table = dtrain.tensor(TABLE, requires_grad=True)
        bags(table).backward(g)
        gradients.append(table.grad.array)
    np.testing.assert_allclose(*gradients, rtol=1e-12)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_embedding_bag_without_elements(mode):
    bag = nn.EmbeddingBag(7, 3, mode=mode)
    empty = dtrain.tensor(np.zeros(0, np.int64))
    y = bag(empty, dtrain.tensor([0, 0]))
    y.sum().backward()
    assert y.tolist() == [[0] * 3] * 2
    assert bag(empty.reshape(0, 4)).shape == (0, 3)
    assert not bag.weight.grad.array.any()


def test_gradients_of_gradients():
    table = dtrain.tensor(TABLE, requires_grad=True)
    index, starts = dtrain.tensor(FLAT), dtrain.tensor(STARTS)

    def penalty(table, mode):
        y = F.embedding_bag(index, table, starts, mode=mode)
        (g,) = dtrain.autograd.grad((y * y * y).sum(), table, create_graph=True)
        return (g * g).sum()

    for mode in ("sum", "mean", "max"):
        (second,) = dtrain.autograd.grad(penalty(table, mode), table)
        step = np.zeros_like(TABLE)
        step[5, 1] = 1e-6
        up, down = (penalty(dtrain.tensor(TABLE + s, requires_grad=True), mode).item() for s in (step, -step))
        assert second.array[5, 1] == pytest.approx((up - down) / 2e-6, rel=1e-5)


@pytest.mark.parametrize("kind", ["Embedding", "EmbeddingBag"])
def test_from_pretrained_shares_and_freezes(kind):
    vectors = dtrain.tensor(TABLE)
    frozen = getattr(nn, kind).from_pretrained(vectors)
    assert frozen.weight.array is vectors.array
    assert not frozen.weight.requires_grad
    assert getattr(nn, kind).from_pretrained(vectors, freeze=False, padding_idx=-1).weight.requires_grad
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        getattr(nn, kind).from_pretrained(dtrain.ones(3))


def test_parts_of_looking_up():
    index, table = dtrain.tensor([0, 2, 2]), dtrain.tensor([[3.0, 4.0], [6.0, 8.0], [0.3, 0.4]])
    assert check_table("embedding", index, table, -1) == 2
    renormalise("embedding", index, table, 1.0, 2.0)
    assert table.array == pytest.approx(np.array([[0.6, 0.8], [6.0, 8.0], [0.3, 0.4]]))
    found = table[index].requires_grad_()
    y = scaled_by_frequency(found, index.array, 3)
    y.sum().backward()
    assert y.array == pytest.approx(found.array)
    assert found.grad.tolist() == [[1, 1], [0.5, 0.5], [0.5, 0.5]]


def test_max_norm_spoils_a_graph_that_kept_the_table():
    table = nn.Embedding.from_pretrained(dtrain.ones(7, 3), freeze=False, max_norm=0.5)
    before = (table.weight * table.weight).sum()
    table(dtrain.tensor([1]))
    with pytest.raises(RuntimeError, match="in place|changed"):
        before.backward()


def test_max_norm_is_an_error_under_distributed_data_parallel():
    def use(comm):
        model = dtrain.DistributedDataParallel(nn.Embedding(7, 3, max_norm=1.0), comm, microbatches=1)
        with pytest.raises(RuntimeError, match="max_norm=1.0 .* under DistributedDataParallel"):
            model(dtrain.tensor([1]))

    run_ranks(1, use)


BAD = {
    "two dimensions and offsets": (lambda i, t: F.embedding_bag(i.reshape(2, 4), t, i), ValueError, "one dimension"),
    "no offsets": (lambda i, t: F.embedding_bag(i, t), ValueError, r"\(8,\) and None"),
    "first offset": (lambda i, t: F.embedding_bag(i, t, i), ValueError, "begin with 0"),
    "mode": (lambda i, t: F.embedding_bag(i.reshape(2, 4), t, mode="min"), ValueError, "'min'"),
    "max by frequency": (
        lambda i, t: F.embedding_bag(i.reshape(2, 4), t, mode="max", scale_grad_by_freq=True), ValueError, "max",
    ),
    "factors and mean": (
        lambda i, t: F.embedding_bag(i.reshape(2, 4), t, per_sample_weights=t), NotImplementedError, "'mean'",
    ),
    "factors' shape": (
        lambda i, t: F.embedding_bag(i.reshape(2, 4), t, mode="sum", per_sample_weights=t), ValueError, r"\(2, 4\)",
    ),
    "row": (lambda i, t: F.embedding_bag(i.reshape(2, 4), t[:5]), IndexError, "row 5 .* 5 rows"),
    "offsets' dtype": (lambda i, t: F.embedding_bag(i, t, t[0]), TypeError, "float64"),
    "table": (lambda i, t: F.embedding(i, t[0]), ValueError, r"\(3,\)"),
    "padding_idx": (lambda i, t: F.embedding(i, t, padding_idx=7), ValueError, "7"),
    "weight": (lambda i, t: nn.Embedding(7, 4, _weight=t), ValueError, r"\(7, 4\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_errors(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call(dtrain.tensor(FLAT), dtrain.tensor(TABLE))
