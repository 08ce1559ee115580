"""Metrics on MPI ranks with uneven data: the bytes of one process that has all of it."""

from __future__ import annotations

import numpy as np
import pytest

from dtrain import data, metrics
from dtrain.comm import Communicator, SingleCommunicator
from tests.metrics.shared import METRICS, bytes_of, samples


@pytest.mark.parametrize("name", METRICS)
def test_values_are_those_of_one_process(comm: Communicator, name: str) -> None:
    assert bytes_of(name, comm) == bytes_of(name, SingleCommunicator())


@pytest.mark.parametrize("n", [1, 3, 1001])
def test_a_loader_shows_each_sample_once(comm: Communicator, n: int) -> None:
    x, y = samples(n)
    dataset = data.ArrayDataset(x, y)
    accuracy, matrix = metrics.Accuracy(comm=comm), metrics.ConfusionMatrix(7, comm=comm)
    for _ in range(2):
        accuracy.reset()
        matrix.reset()
        for scores, labels in data.DataLoader(dataset, 64, comm=comm):
            accuracy.update(scores, labels)
            matrix.update(scores, labels)
        assert accuracy.compute().item() == np.mean(x.argmax(1) == y)
        assert matrix.compute().numpy().sum() == n
