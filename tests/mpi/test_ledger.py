"""The divergence ledger over MPI: every rank raises the same error."""

from __future__ import annotations

import pytest

from dtrain.comm import Communicator
from tests.parallel.flipped import PLACES, train_and_flip


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("place", PLACES)
def test_a_flipped_bit_is_found(comm: Communicator, place: str) -> None:
    error, _, _ = train_and_flip(comm, place, rank=1, ledger=3)
    assert (error.step, error.phase, error.name, error.element) == (5, *PLACES[place])
    assert error.ranks == ([1] if comm.size > 2 else [0, 1])
    assert len(error.values) == comm.size
    assert len(set(comm.all_gather_object(str(error)))) == 1
