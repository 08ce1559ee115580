"""Metrics over ranks: each sample counts once, and the value has the same bits at any number of ranks.

    accuracy = metrics.Accuracy(comm=job.comm)
    for x, y in loader:  # this rank's samples, however many
        accuracy.update(model(x), y)
    job.print(f"{accuracy.compute():.2%}")  # over all ranks; every rank calls it

What a metric keeps are whole numbers: counts, and sums of floating-point numbers as long integers, which are
exact (`exact.py`). So neither the order of samples nor which rank has seen them matters, nothing is padded,
and a rank may have no samples at all. The classes are used like torchmetrics' (`update`, `compute`, `reset`).

May import what is below `dtrain.parallel`. Read first: `metric.py`, then `exact.py`.
"""

from __future__ import annotations

from dtrain.metrics.classification import Accuracy, ConfusionMatrix, TopKAccuracy
from dtrain.metrics.mean import Mean, Perplexity
from dtrain.metrics.metric import Metric

__all__ = ["Accuracy", "ConfusionMatrix", "Mean", "Metric", "Perplexity", "TopKAccuracy"]
