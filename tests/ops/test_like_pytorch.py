"""Small habits of PyTorch that NumPy does not share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dtrain


@pytest.mark.parametrize(
    ("shape", "key"),
    [
        ((2, 3, 4), (0, slice(None), [0, 2])),
        ((2, 3, 4), (slice(None), [0, 1], 1)),
        ((2, 3, 4), (0, [1, 0], [0, 3])),
        ((2, 3, 4), (slice(None), [1], None, 1)),
        ((2, 3, 4), (..., [0, 2], 0)),
        ((2, 3, 4), (1, ...)),
        ((2, 3, 4), ([0, 1], [1, 2], 0)),
        ((2, 2, 3), (0, [[True, False, True], [False, False, True]])),
    ],
    ids=str,
)
def test_numbers_beside_arrays_are_selected_first(shape: tuple[int, ...], key: tuple[Any, ...], torch: Any) -> None:
    x = np.arange(float(np.prod(shape))).reshape(shape)
    ours, theirs = dtrain.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    keys = [tuple(make(k) if isinstance(k, list) else k for k in key) for make in (dtrain.tensor, torch.tensor)]
    y, z = ours[keys[0]], theirs[keys[1]]
    np.testing.assert_array_equal(y.detach().numpy(), z.detach().numpy())
    (y * y).sum().backward()
    (z * z).sum().backward()
    np.testing.assert_array_equal(ours.grad.numpy(), theirs.grad.numpy())
    a, b = dtrain.tensor(x), torch.tensor(x)
    a[keys[0]], b[keys[1]] = -1.0, -1.0
    np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_numpy_scalars_are_python_numbers() -> None:
    x = dtrain.ones(2)
    assert (x / np.sqrt(64)).dtype == (np.float64(2) * x).dtype == dtrain.float32


def test_no_samples_keep_their_shape() -> None:
    assert dtrain.zeros(0, 1, 28, 28).view(0, -1).shape == (0, 784)
    assert dtrain.zeros(0, 784).reshape(-1, 28, 28).shape == (0, 28, 28)


def test_maximum_along_a_dimension_has_names_and_none_is_no_tensor() -> None:
    found = dtrain.tensor([[1.0, 3.0], [4.0, 2.0]]).max(1)
    assert found.values.tolist() == [3, 4] and found.indices.tolist() == [1, 0]
    x = dtrain.ones(2)
    assert (x == None) is False and (x != None) is True  # noqa: E711


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1), (0, 2, 1)])
def test_linear_of_sequences_first_leaves_them_where_they_lie(order):
    """Its result, and the gradient of its input, lie in memory as the input does; values are those of a copy."""
    rng = np.random.default_rng(0)
    weight, bias = (dtrain.tensor(rng.standard_normal(s), requires_grad=True) for s in ((6, 4), (6,)))
    shape = [0, 0, 0]  # that `order` makes (3, 5, 4)
    for place, size in zip(order, (3, 5, 4), strict=True):
        shape[place] = size
    found = []
    for copied in (False, True):
        given = dtrain.tensor(np.random.default_rng(1).standard_normal(shape), requires_grad=True)
        x = given.permute(*order)
        y = dtrain.nn.functional.linear(x.contiguous() if copied else x, weight, bias)
        weight.grad = bias.grad = None
        (y * y).sum().backward()
        found.append([t.detach().numpy() for t in (y, given.grad, weight.grad, bias.grad)])
        if not copied and order == (1, 0, 2):
            assert y.array.transpose(1, 0, 2).flags.c_contiguous
    for got, want in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
