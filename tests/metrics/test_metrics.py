"""Values against plain NumPy; the same bits on any number of ranks; one clear error for bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain.comm import Communicator, SingleCommunicator, run_ranks
from dtrain.metrics import Accuracy, ConfusionMatrix, Mean, Metric, Perplexity, TopKAccuracy
from tests.metrics.shared import CLASSES, METRICS, bytes_of, samples


def value(metric: Metric, *batches: tuple[Any, ...]) -> Any:
    for batch in batches:
        metric.update(*batch)
    return metric.compute().numpy()


X, Y = samples()
BEST = X.argsort(axis=1)[:, ::-1]


def matrix() -> np.ndarray:
    m = np.zeros((CLASSES, CLASSES), np.int64)
    for target, predicted in zip(Y, BEST[:, 0], strict=True):
        m[target, predicted] += 1
    return m


@pytest.mark.parametrize(
    ("metric", "batch", "want"),
    [
        (Accuracy(), (X, Y), np.mean(BEST[:, 0] == Y)),
        (Accuracy(CLASSES), (BEST[:, 0], Y), np.mean(BEST[:, 0] == Y)),
        (Accuracy(top_k=2), (X, Y), np.mean((BEST[:, :2] == Y[:, None]).any(1))),
        (TopKAccuracy(3), (X, Y), np.mean((BEST[:, :3] == Y[:, None]).any(1))),
        (TopKAccuracy(k=CLASSES), (X, Y), 1.0),
        (Accuracy(CLASSES, average="macro"), (X, Y), np.mean(np.diag(matrix()) / matrix().sum(1))),
        (Accuracy(CLASSES, average="none"), (X, Y), np.diag(matrix()) / matrix().sum(1)),
        (Accuracy(ignore_index=3), (X, Y), np.mean((BEST[:, 0] == Y)[Y != 3])),
        (Accuracy(), (X[:, 0], X[:, 1] > 0.5), np.mean((X[:, 0] > 0.5) == (X[:, 1] > 0.5))),
        (Accuracy(threshold=0.0), (X[:, 0], X[:, 1] > 0), np.mean((X[:, 0] > 0) == (X[:, 1] > 0))),
        (Accuracy(), (X.reshape(10, 100, CLASSES).swapaxes(1, 2), Y.reshape(10, 100)), np.mean(BEST[:, 0] == Y)),
        (Accuracy(), (X[0], np.int64(BEST[0, 0])), 1.0),
        (ConfusionMatrix(CLASSES), (X, Y), matrix()),
        (ConfusionMatrix(CLASSES), (BEST[:, 0], Y), matrix()),
        (ConfusionMatrix(CLASSES, "true"), (X, Y), matrix() / matrix().sum(1)[:, None]),
        (ConfusionMatrix(CLASSES, "pred"), (X, Y), matrix() / matrix().sum(0)),
        (ConfusionMatrix(CLASSES, "all"), (X, Y), matrix() / 1000),
        (Mean(), (X,), math.fsum(X.flat) / X.size),
        (Mean(), (X, 2.0), math.fsum(X.flat) / X.size),
        (Mean(), (X[:, 0], Y), math.fsum(X[:, 0] * Y) / Y.sum()),
        (Mean(), (np.float32(2.5),), 2.5),
    ],
    ids=repr,
)
def test_values(metric: Metric, batch: tuple[Any, ...], want: Any) -> None:
    got = value(metric, batch)
    np.testing.assert_array_equal(got, want)
    assert got.dtype == np.asarray(want).dtype
    # The same as a Tensor, in two parts, after a reset.
    metric.reset()
    if np.ndim(batch[0]) and np.ndim(batch[-1]):
        half = len(batch[0]) // 2
        parts = [tuple(dtrain.tensor(a[part]) for a in batch) for part in (slice(half), slice(half, None))]
        np.testing.assert_array_equal(value(metric, *parts), want)


def test_perplexity() -> None:
    log_p = X - np.log(np.exp(X - X.max(1, keepdims=True)).sum(1, keepdims=True)) - X.max(1, keepdims=True)
    own = log_p[np.arange(1000), Y]
    np.testing.assert_allclose(value(Perplexity(), (X, Y)), np.exp(-own.mean()), rtol=1e-12)
    sequences = X.reshape(10, 100, CLASSES), Y.reshape(10, 100)
    np.testing.assert_array_equal(value(Perplexity(), sequences), value(Perplexity(), (X, Y)))
    np.testing.assert_allclose(value(Perplexity(4), (X, Y)), np.exp(-own[Y != 4].mean()), rtol=1e-12)
    assert value(Perplexity(), (np.array([[0.0, 1e4]]), np.array([0]))) == np.inf
    assert value(Perplexity(), (np.zeros((5, 16), np.float32), np.arange(5))) == pytest.approx(16)


def test_of_equal_scores_the_lower_class_comes_first() -> None:
    scores, target = np.ones((3, 4)), np.array([0, 1, 3])
    assert value(Accuracy(), (scores, target)) == 1 / 3
    assert value(Accuracy(top_k=2), (scores, target)) == 2 / 3
    np.testing.assert_array_equal(value(ConfusionMatrix(4), (scores, target))[:, 0], [1, 1, 0, 1])


def test_classes_that_do_not_occur() -> None:
    batch = np.array([0, 1, 0]), np.array([0, 0, 0])
    np.testing.assert_array_equal(value(Accuracy(3, average="none"), batch), [2 / 3, np.nan, np.nan])
    assert value(Accuracy(3, average="macro"), batch) == 2 / 3
    assert not value(ConfusionMatrix(3, "true"), batch)[1:].any()


def test_a_call_counts_and_gives_the_value_of_its_batch() -> None:
    mean = Mean()
    assert mean([1.0, 2.0]).item() == 1.5
    assert mean(6).item() == 6
    assert f"{mean.compute():.1f}" == "3.0"
    assert mean.compute().item() == 3, "compute changes nothing"


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([1e16, 1.0, -1e16], 1 / 3),  # rounded sums give 0
        ([1e308, 1e308], 1e308),  # and these inf
        ([5e-324, 5e-324], 5e-324),
        ([-5e-324, 1.5, -1.5], -0.0),
        ([np.inf, 1.0], np.inf),
        ([-np.inf, 1.0], -np.inf),
        ([np.inf, -np.inf], np.nan),
        ([np.nan, 1.0], np.nan),
        (np.array([65504, 65504], np.float16), 65504),
        ([True, False], 0.5),
    ],
)
def test_means_are_exact(values: Any, want: float) -> None:
    np.testing.assert_array_equal(value(Mean(), (values,)), want)


def test_sums_are_those_of_fractions() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 10, 3000):
        x = np.ldexp(rng.standard_normal(n), rng.integers(-1074, 960, n))
        np.testing.assert_array_equal(value(Mean(), (x, np.ones(n))), float(sum(map(Fraction, x)) / n))


@pytest.mark.parametrize("name", METRICS)
def test_the_bits_do_not_depend_on_ranks(name: str) -> None:
    want = bytes_of(name, SingleCommunicator())
    for size in (2, 3, 5):
        assert run_ranks(size, lambda comm: bytes_of(name, comm)) == [want] * size


def refused(function: Callable[[], Any], error: type[Exception], *words: str) -> None:
    with pytest.raises(error) as caught:
        function()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("metric", "batch", "error", "words"),
    [
        (Accuracy(), (X, Y[:9]), ValueError, ("(1000, 7)", "(9,)")),
        (Accuracy(), (X, Y * 2), ValueError, ("class", "0 to 6")),
        (Accuracy(), (X, Y - 1), ValueError, ("class -1", "ignore_index")),
        (Accuracy(), (X, Y * 1.0), TypeError, ("float64",)),
        (Accuracy(), (X.astype(int), Y), TypeError, ("(1000, 7)", "int64")),
        (Accuracy(), (X * np.nan, Y), ValueError, ("7000 of 7000", "NaN")),
        (Accuracy(5), (X, Y), ValueError, ("7 classes", "5")),
        (Accuracy(top_k=9), (X, Y), ValueError, ("top_k=9", "7 classes")),
        (Accuracy(top_k=2), (Y, Y), ValueError, ("top_k=2",)),
        (ConfusionMatrix(5), (Y, Y), ValueError, ("class", "0 to 4")),
        (Mean(), (X, Y), ValueError, ("(1000,)", "(1000, 7)")),
        (Mean(), (X, -1), ValueError, ("-1",)),
        (Mean(), ("3",), TypeError, ("str",)),
        (Perplexity(), (X.T, Y), ValueError, ("(7, 1000)", "(1000,)", "(..., V)")),
        (Perplexity(), (Y[:, None], Y), TypeError, ("int64",)),
        (Perplexity(), (X * np.inf, Y), ValueError, ("finite",)),
    ],
)
def test_bad_input_is_refused_and_counts_nothing(
    metric: Metric, batch: tuple[Any, ...], error: type[Exception], words: tuple[str, ...]
) -> None:
    refused(lambda: metric.update(*batch), error, *words)
    refused(metric.compute, RuntimeError, type(metric).__name__, "no samples")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Accuracy(average="weighted"), lambda: Accuracy(average="macro"), lambda: Accuracy(3, top_k=4),
        lambda: Accuracy(top_k=0), lambda: Accuracy(1), lambda: ConfusionMatrix(1), lambda: ConfusionMatrix(3, "rows"),
    ],
)  # fmt: skip
def test_arguments_are_checked(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError):
        make()


def test_ranks_must_have_made_the_same_metric() -> None:
    def work(comm: Communicator) -> None:
        metric = Accuracy(top_k=1 + comm.rank, comm=comm)
        metric.update(X, Y)
        with pytest.raises(ValueError, match=r"rank 0 has Accuracy\(top_k=1.*rank 1 has Accuracy\(top_k=2"):
            metric.compute()

    run_ranks(2, work)


def test_one_rank_may_have_no_samples() -> None:
    def work(comm: Communicator) -> float:
        metric = Accuracy(comm=comm)
        if comm.rank == 1:
            metric.update(X, Y)
        return metric.compute().item()

    assert run_ranks(3, work) == [np.mean(BEST[:, 0] == Y)] * 3
