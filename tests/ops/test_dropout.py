"""Dropout: what it keeps, what it scales, and from which draws."""

from __future__ import annotations

import numpy as np
import pytest

import dtrain
from dtrain.autograd import Tensor, no_grad
from dtrain.nn import functional as F


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_keeps_a_share_and_the_mean(p):
    dtrain.manual_seed(0)
    x = Tensor(np.ones((200, 100)), requires_grad=True)
    y = F.dropout(x, p)
    kept = y.array != 0
    assert abs(kept.mean() - (1 - p)) < 0.02
    np.testing.assert_allclose(y.array[kept], 1 / (1 - p))
    y.backward(Tensor(np.full(x.shape, 2.0)))
    np.testing.assert_allclose(x.grad.array, 2 * y.array)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (0, 3), (3, 1, 2)])
def test_ends_of_the_range(dtype, shape):
    x = Tensor(np.ones(shape, dtype), requires_grad=True)
    assert F.dropout(x, 0.0) is x
    assert F.dropout(x, 0.5, training=False) is x
    y = F.dropout(x, 1.0)
    assert (y.dtype, y.shape) == (dtype, shape)
    assert not y.array.any()
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError, match="must be in"):
            F.dropout(x, p)


def test_mask_is_a_function_of_the_key():
    x = dtrain.ones(50)

    def mask() -> list[float]:
        return F.dropout(x, 0.5).tolist()

    dtrain.manual_seed(3)
    first, second = mask(), mask()
    dtrain.manual_seed(3)
    with no_grad():
        other = mask()
    assert mask() == first
    assert len({tuple(first), tuple(second), tuple(other)}) == 3


def test_attention_drops_weights_by_the_same_draws():
    def gradients(attention):
        dtrain.manual_seed(5)
        q, k, v = (dtrain.randn(2, 3, 4, 4, dtype=dtrain.float64, requires_grad=True) for _ in range(3))
        y = attention(q, k, v)
        (y * y).sum().backward()
        return [t.detach().numpy() for t in (y, q.grad, k.grad, v.grad)]

    def composed(q, k, v):
        return F.dropout(F.softmax(q @ k.mT / 2, -1), 0.4) @ v

    found = gradients(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=0.4))
    for got, want in zip(found, gradients(composed), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)
    assert not gradients(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=1.0) + 0 * q)[1].any()
