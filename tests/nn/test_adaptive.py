"""AdaptiveLogSoftmaxWithLoss and CrossMapLRN2d beside PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.autograd import Tensor

RNG = np.random.default_rng(0)


def pair(torch, **options):
    torch.manual_seed(0)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(16, 20, [4, 9, 15], div_value=2.0, **options).double()
    ours = nn.AdaptiveLogSoftmaxWithLoss(16, 20, [4, 9, 15], div_value=2.0, **options).double()
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    assert list(ours.state_dict()) == list(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("head_bias", [False, True])
@pytest.mark.parametrize("classes", [[0, 3, 4, 19, 9, 9, 14], [1, 2], [16, 17, 5], [8], 7, 0])
def test_output_loss_and_gradients(torch, classes, head_bias):
    ours, theirs = pair(torch, head_bias=head_bias)
    target = np.array(classes)
    x = RNG.standard_normal((*target.shape, 16))
    a, b = Tensor(x).requires_grad_(), torch.from_numpy(x.copy()).requires_grad_()
    got, want = ours(a, Tensor(target)), theirs(b, torch.from_numpy(target.copy()))
    assert got._fields == want._fields
    np.testing.assert_allclose(got.output.array, want.output.detach().numpy(), rtol=1e-12)
    assert got.loss.item() == pytest.approx(want.loss.item(), rel=1e-12)
    got.loss.backward()
    want.loss.backward()
    np.testing.assert_allclose(a.grad.array, b.grad.numpy(), rtol=1e-9, atol=1e-15)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if q.grad is not None:
            np.testing.assert_allclose(p.grad.array, q.grad.numpy(), rtol=1e-9, atol=1e-15)


def test_log_prob_and_predict(torch):
    ours, theirs = pair(torch)
    x = RNG.standard_normal((40, 16)) * 5
    np.testing.assert_allclose(ours.log_prob(Tensor(x)).array, theirs.log_prob(torch.from_numpy(x)).detach().numpy())
    assert ours.predict(Tensor(x)).tolist() == theirs.predict(torch.from_numpy(x)).tolist()


@pytest.mark.parametrize("cutoffs", [[], [5, 3], [0, 3], [3, 3], [20], [2.5]])
def test_cutoffs_must_increase(cutoffs):
    with pytest.raises(ValueError, match="cutoff"):
        nn.AdaptiveLogSoftmaxWithLoss(4, 20, cutoffs)


def test_errors():
    layer = nn.AdaptiveLogSoftmaxWithLoss(4, 20, [5])
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(2,\)"):
        layer(dtrain.ones(3, 4), dtrain.tensor([1, 2]))
    with pytest.raises(IndexError, match="from 0 to 19"):
        layer(dtrain.ones(1, 4), dtrain.tensor([20]))
    assert layer(dtrain.ones(0, 4), dtrain.tensor(np.zeros(0, np.int64))).output.shape == (0,)


@pytest.mark.parametrize("size", [1, 3, 4, 5])
def test_cross_map_lrn(torch, size):
    """PyTorch's layer never takes the first channel out of its window again; so the first channels are compared."""
    x = RNG.standard_normal((2, 6, 3, 2))
    got = nn.CrossMapLRN2d(size, 0.3, 0.6, 1.5)(Tensor(x))
    first = (size + 1) // 2
    want = torch.nn.CrossMapLRN2d(size, 0.3, 0.6, 1.5)(torch.from_numpy(x.copy()))[:, :first]
    np.testing.assert_allclose(got.array[:, :first], want.numpy(), rtol=1e-12)
    if size % 2:
        of_all = torch.nn.functional.local_response_norm(torch.from_numpy(x), size, 0.3, 0.6, 1.5)
        np.testing.assert_allclose(got.array, of_all.numpy(), rtol=1e-12)
    with pytest.raises(ValueError, match=r"\(6, 3, 2\)"):
        nn.CrossMapLRN2d(size)(dtrain.ones(6, 3, 2))
