"""The models, batches and optimizers of the benchmarks, written once for PyTorch and dtrain: only `nn` differs."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["WORKLOADS", "Workload"]


def mlp(nn: Any, *sizes: int) -> Any:
    layers: list[Any] = []
    for i, o in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn(nn: Any) -> Any:
    """The size of examples/train.py."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


class Workload:
    """make(nn) -> model; shape: of a rank's batch; steps: how many are timed."""

    def __init__(self, make: Any, shape: tuple[int, ...], steps: int) -> None:
        self.make, self.shape, self.steps = make, shape, steps

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """x of `shape`, normal, and y, class numbers below 10."""
        rng = np.random.Generator(np.random.Philox(key=1))
        return rng.standard_normal(self.shape, np.float32), rng.integers(0, 10, self.shape[0])


WORKLOADS = {
    "tiny": Workload(lambda nn: mlp(nn, 64, 32, 10), (32, 64), 500),
    "mlp": Workload(lambda nn: mlp(nn, 784, 512, 512, 10), (64, 784), 200),
    "cnn": Workload(cnn, (64, 1, 28, 28), 20),
}
