"""The divergence ledger: one flipped bit on one rank is found, and said where, on every rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.comm import Communicator, run_ranks
from dtrain.parallel import Divergence, Ledger, ledger
from tests.parallel.flipped import PLACES, train_and_flip
from tests.parallel.training import train


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("size", "every"), [(3, 2), (4, 3)])
def test_a_flipped_bit_is_found(place: str, size: int, every: int) -> None:
    """In the first comparison after it, with the rank that has it against the majority."""
    results = run_ranks(size, lambda comm: train_and_flip(comm, place, rank=1, ledger=every))
    phase, name, element = PLACES[place]
    _, true, false = results[1]
    for error, *_ in results:
        assert (error.step, error.phase, error.name) == (5, phase, name)
        assert (error.ranks, error.element) == ([1], element)
        if place != "optimizer state":  # which is seen by what it does to a parameter
            assert [v.tobytes() for v in error.values] == [(false if r == 1 else true).tobytes() for r in range(size)]
        assert len(set(error.hashes)) == 2
        assert f"step 5, {phase}: {name}, element {list(element)}: rank 1 has {error.values[1]!s} (0x" in str(error)
        assert f"the majority (0, {', '.join(map(str, range(2, size)))}) has {error.values[0]!s} (0x" in str(error)


def test_without_a_majority_all_values_are_given() -> None:
    for size, ranks in ((2, [0, 1]), (4, [0, 1, 2, 3])):

        def run(comm: Communicator) -> None:
            Ledger(comm, 1).compare(7, [("phase", "x", np.full(3, comm.rank % 2))])  # noqa: B023

        with pytest.raises(Divergence, match="rank 0 has 0 .*, rank 1 has 1 .*without a majority") as caught:
            run_ranks(size, run)
        assert caught.value.ranks == ranks


def test_bits_are_compared_not_values() -> None:
    def run(comm: Communicator) -> list[str]:
        seen = []
        same = [np.float32(np.nan), np.array([True, False]), np.zeros(0), np.arange(6).reshape(2, 3).T]
        Ledger(comm, 1).compare(0, [("phase", "x", np.asarray(a)) for a in same])
        for pair in [(0.0, -0.0), (np.array([True]), np.array([False])), (np.int64(1), np.int64(-1))]:
            with pytest.raises(Divergence) as caught:
                Ledger(comm, 1).compare(0, [("phase", "x", np.asarray(pair[comm.rank]))])
            seen.append(str(caught.value.values))
        return seen

    first, second = run_ranks(2, run)
    assert first == second


def test_others_that_differ_are_named() -> None:
    def run(comm: Communicator) -> None:
        arrays = [np.full(2, comm.rank == 2 and i > 0) for i in range(9)]
        Ledger(comm, 1).compare(0, [("phase", f"x{i}", a) for i, a in enumerate(arrays)])

    with pytest.raises(
        Divergence, match=r"x1, element \[0\].*2 of its 2 .* 7 more tensors: x2, x3, x4, x5, x6, \.\.\.\n"
    ):
        run_ranks(3, run)


def test_a_difference_that_is_gone_when_elements_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(comm: Communicator) -> None:
        Ledger(comm, 1).compare(0, [("phase", "x", np.zeros(2) + comm.rank)])

    monkeypatch.setattr(ledger, "hash_of", lambda array: int(array[0] == 1))
    monkeypatch.setattr(ledger, "to_numpy", np.zeros_like)
    with pytest.raises(
        Divergence, match="x, by its hash on rank 1, but not when its elements are read again"
    ) as caught:
        run_ranks(3, run)
    assert (caught.value.ranks, caught.value.element, caught.value.values) == ([1], None, [])


def test_a_hash_that_was_wrong_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []

    def once(array: np.ndarray) -> int:
        hashed.append(1)
        return int(len(hashed) == 1)

    monkeypatch.setattr(ledger, "hash_of", once)
    with pytest.raises(Divergence, match="x, by its hash on rank ., but not when its elements are read again"):
        run_ranks(3, lambda comm: Ledger(comm, 1).compare(0, [("phase", "x", np.zeros(2))]))


def test_it_changes_nothing_and_one_rank_compares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    want = run_ranks(1, lambda comm: train(comm, 3))[0]
    assert run_ranks(3, lambda comm: train(comm, 3, ledger=1)) == [want] * 3
    monkeypatch.setattr(Ledger, "compare", None)
    assert run_ranks(1, lambda comm: train(comm, 3, ledger=1)) == [want]


def test_errors() -> None:
    with pytest.raises(ValueError, match="at least 1; got 0"):
        dtrain.DistributedDataParallel(nn.Linear(1, 1), ledger=0)

    def disagree(comm: Communicator) -> Any:
        return dtrain.DistributedDataParallel(nn.Linear(1, 1), comm, ledger=5 if comm.rank else None)

    with pytest.raises(RuntimeError, match="rank 0 has ledger: None; rank 1 has ledger: 5"):
        run_ranks(2, lambda comm: (dtrain.manual_seed(0), disagree(comm)))
