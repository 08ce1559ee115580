"""Metrics that every test makes, on samples that any number of ranks shares unevenly."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

import dtrain
from dtrain.comm import Communicator
from dtrain.metrics import Accuracy, ConfusionMatrix, Mean, Metric, Perplexity, TopKAccuracy

__all__ = ["METRICS", "blocks", "bytes_of", "samples"]

CLASSES = 7

Make = Callable[..., Metric]
METRICS: dict[str, tuple[Make, Callable[[Metric, np.ndarray, np.ndarray], None]]] = {
    "accuracy": (Accuracy, lambda m, x, y: m.update(dtrain.tensor(x), dtrain.tensor(y))),
    "top-k": (lambda **k: TopKAccuracy(3, **k), lambda m, x, y: m.update(x, y)),
    "macro": (lambda **k: Accuracy(CLASSES, average="macro", ignore_index=2, **k), lambda m, x, y: m.update(x, y)),
    "none": (lambda **k: Accuracy(CLASSES, average="none", **k), lambda m, x, y: m.update(x.argmax(1), y)),
    "confusion": (lambda **k: ConfusionMatrix(CLASSES, **k), lambda m, x, y: m.update(x, y)),
    "normalized": (lambda **k: ConfusionMatrix(CLASSES, "true", **k), lambda m, x, y: m.update(x, y)),
    "mean": (Mean, lambda m, x, y: m.update(x)),
    "weighted mean": (Mean, lambda m, x, y: m.update(x[:, 0], weight=y)),
    "perplexity": (Perplexity, lambda m, x, y: m.update(x, y)),
}


def samples(n: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Scores over many orders of magnitude, whose sum depends on the order if it is rounded; and classes."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((n, CLASSES)) * 10.0 ** rng.integers(-8, 3, (n, 1))
    return x, rng.integers(0, CLASSES, n)


def blocks(n: int, comm: Communicator) -> Iterator[slice]:
    """This rank's batches: of any length, also none, and no two ranks have as many. The last has no samples at all."""
    cuts = sorted(np.random.default_rng(6).integers(0, n, 5 * comm.size - 1).tolist()) if comm.size > 1 else []
    edges = [0, *cuts, n]
    for i, (a, b) in enumerate(zip(edges, edges[1:], strict=False)):
        if min(i * i, i) % max(comm.size - 1, 1) == comm.rank:
            yield slice(a, b)
    yield slice(n, n)


def bytes_of(name: str, comm: Communicator, n: int = 1000) -> bytes:
    """The bytes of a metric's value over all ranks' samples."""
    make, update = METRICS[name]
    x, y = samples(n)
    metric = make(comm=comm)
    for block in blocks(n, comm):
        update(metric, x[block], y[block])
    return metric.compute().numpy().tobytes()
