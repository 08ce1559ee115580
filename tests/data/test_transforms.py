"""What a transform does to a sample depends on (seed, epoch, sample), not on its batch."""

from __future__ import annotations

import numpy as np
import pytest

from dtrain import data
from dtrain.backend.random import manual_seed
from dtrain.data import Compose, Context, Normalize, RandomCrop, RandomHorizontalFlip


def images(n: int, channels: int = 2, size: int = 6) -> np.ndarray:
    return np.arange(n * channels * size * size, dtype=np.float32).reshape(n, channels, size, size)


AUGMENT = Compose([RandomCrop(5, padding=(2, 1), fill=-1.0), RandomHorizontalFlip()])


@pytest.mark.parametrize("batches", [[8], [1] * 8, [3, 0, 5], [0, 8]])
def test_results_do_not_depend_on_batching(batches):
    x, samples = images(8), np.arange(100, 108)
    whole = AUGMENT(x, Context(samples, epoch=3, seed=1))
    bounds = np.cumsum([0, *batches])
    parts = [
        AUGMENT(x[lo:hi], Context(samples[lo:hi], epoch=3, seed=1))
        for lo, hi in zip(bounds[:-1], bounds[1:], strict=True)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert whole.shape == (8, 2, 5, 5)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(x, images(8))  # the input is untouched


@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 4}, {"samples": np.arange(64)}])
def test_other_seed_epoch_or_sample_draws_otherwise(change):
    same = {"samples": np.arange(64) + 100, "epoch": 3, "seed": 1}
    x = np.broadcast_to(images(1), (64, 2, 6, 6))
    assert (AUGMENT(x, Context(**same)) != AUGMENT(x, Context(**(same | change)))).any()


def test_draws_of_a_chain_are_independent():
    context = Context(np.arange(5), seed=0)
    first, second = ([draw.random() for draw in context.streams()] for _ in range(2))
    assert len({*first, *second}) == 10


def test_flip():
    x = images(200, channels=1, size=3)
    flipped = RandomHorizontalFlip(0.5)(x, Context(np.arange(200), seed=0))
    is_mirrored = (flipped == x[..., ::-1]).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(flipped[~is_mirrored], x[~is_mirrored])
    assert 70 < is_mirrored.sum() < 130
    np.testing.assert_array_equal(RandomHorizontalFlip(1)(x, Context(np.arange(200))), x[..., ::-1])


def test_crop_is_a_window_of_the_padded_image():
    x = images(50, channels=1, size=2) + 1
    cropped = RandomCrop((2, 3), padding=1)(x, Context(np.arange(50), seed=0))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2, 3), axis=(2, 3))[:, 0]
    found = (windows == cropped[:, :, None]).all(axis=(3, 4))  # (50, rows, columns)
    assert found.any(axis=(1, 2)).all()
    assert found.any(axis=0).all()  # every place occurs
    with pytest.raises(ValueError, match="cannot crop 5x5 out of 2x2 images with padding 1, 1"):
        RandomCrop(5, padding=1)(x, Context(np.arange(50)))


def test_normalize_per_channel():
    x = images(2)
    expected = (x - np.float32([[[1]], [[2]]])) / np.float32([[[3]], [[4]]])
    actual = Normalize([1, 2], (3, 4))(x, Context(np.arange(2)))
    np.testing.assert_array_equal(actual, expected)
    assert actual.dtype == np.float32
    with pytest.raises(ValueError, match="3 values but the images have 2 channels"):
        Normalize([1, 2, 3], 1)(x, Context(np.arange(2)))
    with pytest.raises(ValueError, match="std must be positive, got 0"):
        Normalize(0, 0)
    with pytest.raises(ValueError, match="probability"):
        RandomHorizontalFlip(2)


@pytest.mark.parametrize("num_workers", [0, 3])
def test_the_loader_augments_by_epoch_and_sample(num_workers):
    x = images(10)
    dataset = data.ArrayDataset(x, np.arange(10), transform=AUGMENT)
    loader = data.DataLoader(dataset, 4, True, seed=5, microbatches=3, num_workers=num_workers)
    for epoch in range(2):
        for batch, index in loader:
            expected = AUGMENT(x[index.array], Context(index.array, epoch, seed=5))
            np.testing.assert_array_equal(batch.array, expected)


def test_a_single_sample_is_that_of_epoch_0():
    x = images(10)
    dataset = data.ArrayDataset(x, transform=AUGMENT)
    manual_seed(3)
    expected = AUGMENT(x, Context(np.arange(10), epoch=0, seed=3))
    np.testing.assert_array_equal(dataset[7][0].array, expected[7])
    manual_seed(0)
