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
