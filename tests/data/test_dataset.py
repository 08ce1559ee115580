"""Datasets over arrays, and batches out of samples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from dtrain.autograd import Tensor
from dtrain.data import ArrayDataset, DataLoader, Dataset, default_collate


def test_samples_are_tensors_and_ints():
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    dataset = ArrayDataset(Tensor(x), np.arange(4), np.float64([0.5, 1, 2, 3]))
    features, label, weight = dataset[-1]
    assert isinstance(features, Tensor)
    np.testing.assert_array_equal(features.array, [9, 10, 11])
    assert isinstance(label, int)
    assert label == 3
    assert isinstance(weight, Tensor)
    assert weight.shape == ()
    assert len(list(dataset)) == 4  # IndexError ends the iteration
    features.array[:] = 0
    assert dataset[-1][0].array[0] == 9  # samples are copies


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((np.zeros(3), np.zeros((4, 2))), "different lengths: 3, 4 samples"),
        ((), "at least one array"),
        ((np.float32(1),), "first axis that counts samples"),
    ],
)
def test_array_dataset_errors(arrays, message):
    with pytest.raises(ValueError, match=message):
        ArrayDataset(*arrays)


def test_index_out_of_range():
    with pytest.raises(IndexError, match="sample 3 of 3 samples"):
        ArrayDataset(np.zeros(3))[3]


def test_a_dataset_must_say_what_it_holds():
    with pytest.raises(NotImplementedError, match=r"Dataset must define __getitem__"):
        Dataset()[0]
    with pytest.raises(NotImplementedError, match=r"Dataset must define __len__"):
        len(Dataset())


def test_own_getitem_of_a_subclass_is_used():
    class Doubled(ArrayDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x.array * 2, y

    dataset = Doubled(np.ones((4, 2), np.float32), np.arange(4))
    x, y = next(iter(DataLoader(dataset, 4)))
    np.testing.assert_array_equal(x.array, np.full((4, 2), 2))
    np.testing.assert_array_equal(y.array, np.arange(4))


class Pair(NamedTuple):
    x: np.ndarray
    y: int


def test_collate_follows_the_structure():
    sample = {
        "pair": Pair(np.zeros((2, 3), np.float16), 1),
        "list": [Tensor(np.zeros(2, np.float32)), 2.5],
        "text": "a",
        "flag": True,
        "double": np.float64(0.1),
    }
    batch = default_collate([sample] * 4)
    assert isinstance(batch["pair"], Pair)
    assert (batch["pair"].x.shape, batch["pair"].x.dtype) == ((4, 2, 3), np.float16)
    assert (batch["pair"].y.shape, batch["pair"].y.dtype) == ((4,), np.int64)
    assert isinstance(batch["list"], list)
    assert (batch["list"][0].shape, batch["list"][1].dtype) == ((4, 2), np.float32)
    assert batch["text"] == ["a"] * 4
    assert batch["flag"].dtype == np.bool_
    assert batch["double"].dtype == np.float64
    assert batch["double"].array[0] == 0.1


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        ([np.zeros(2), np.zeros(3)], ValueError, r"different shapes.*\(2,\), \(3,\).*collate_fn"),
        ([(1, 2), (1,)], ValueError, r"different numbers of members: \[1, 2\]"),
        ([None, None], TypeError, "cannot make a batch of NoneType objects"),
    ],
)
def test_collate_errors(samples, error, message):
    with pytest.raises(error, match=message):
        default_collate(samples)
