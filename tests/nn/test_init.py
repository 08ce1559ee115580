"""Initial values whose structure matters: orthogonal, sparse, truncated, and those without randomness."""

from __future__ import annotations

import math

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.nn import init


@pytest.mark.parametrize("shape", [(6, 4, 3), (6, 2, 3, 3), (5, 3, 2, 4, 1)])
@pytest.mark.parametrize("groups", [1, 2])
def test_dirac_is_pytorchs(torch, shape, groups):
    ours = dtrain.ones(*shape)
    if shape[0] % groups:
        with pytest.raises(ValueError, match="2 groups"):
            init.dirac_(ours, groups)
        return
    want = torch.nn.init.dirac_(torch.ones(*shape), groups)
    np.testing.assert_array_equal(init.dirac_(ours, groups).array, want.numpy())


def test_eye_is_pytorchs(torch):
    np.testing.assert_array_equal(init.eye_(dtrain.zeros(2, 3)).array, torch.nn.init.eye_(torch.zeros(2, 3)).numpy())


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (6, 2, 3, 2), (4, 4), (0, 3)])
def test_orthogonal(shape):
    w = init.orthogonal_(nn.Parameter(dtrain.ones(*shape, dtype=dtrain.float64)), gain=2.0)
    flat = w.array.reshape(shape[0], -1) / 2 if shape[0] else w.array
    product = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
    np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-12)


def test_sparse_leaves_its_share_of_each_column():
    w = init.sparse_(dtrain.ones(30, 200), 0.35, std=0.5).array
    assert set((w == 0).sum(0)) == {math.ceil(0.35 * 30)}
    assert w[w != 0].std() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(("mean", "std", "a", "b"), [(0, 1, -2, 2), (1.0, 0.5, 0.5, 3.0), (0, 1, 1.9, 5.0)])
def test_trunc_normal(torch, mean, std, a, b):
    dtrain.manual_seed(0)
    torch.manual_seed(0)
    w = init.trunc_normal_(dtrain.zeros(100, 400), mean, std, a, b).array
    want = torch.nn.init.trunc_normal_(torch.zeros(100, 400, dtype=torch.float64), mean, std, a, b)
    assert w.dtype == np.float32
    assert a <= w.min() <= w.max() <= b
    shares = [0.01, 0.1, 0.5, 0.9, 0.99]
    np.testing.assert_allclose(np.quantile(w, shares), np.quantile(want.numpy(), shares), atol=0.02 * (b - a))


@pytest.mark.parametrize(
    "call",
    [
        lambda **k: init.orthogonal_(dtrain.zeros(3, 3), **k),
        lambda **k: init.sparse_(dtrain.zeros(9, 3), 0.1, **k),
        lambda **k: init.trunc_normal_(dtrain.zeros(3, 3), **k),
        lambda **k: init.kaiming_normal_(dtrain.zeros(3, 3), **k),
    ],
)
def test_the_seed_and_the_number_of_draws_before_decide(call):
    dtrain.manual_seed(3)
    first, second = call(), call()
    dtrain.manual_seed(3)
    assert call().tolist() == first.tolist() != second.tolist()
    drawn = call(generator=np.random.default_rng(5))
    assert drawn.tolist() == call(generator=np.random.default_rng(5)).tolist()


@pytest.mark.parametrize(
    "call",
    [
        lambda: init.eye_(dtrain.zeros(3)),
        lambda: init.sparse_(dtrain.zeros(3, 3, 3), 0.1),
        lambda: init.orthogonal_(dtrain.zeros(3)),
        lambda: init.dirac_(dtrain.zeros(3, 3)),
        lambda: init.trunc_normal_(dtrain.zeros(3), std=0.0),
    ],
)
def test_errors(call):
    with pytest.raises(ValueError, match=r"shape \(|std"):
        call()
