"""Communication hooks over MPI: one process computes what all ranks must get."""

from __future__ import annotations

import pytest

from dtrain.comm import Communicator, SingleCommunicator
from dtrain.parallel import reducer
from tests.parallel.hooks.hooked import HOOKS, STATEFUL, hooked
from tests.parallel.hooks.test_training import resumable
from tests.parallel.training import train


@pytest.mark.parametrize("microbatches", [4, 7])
@pytest.mark.parametrize("name", HOOKS)
def test_same_bits_as_one_process(
    comm: Communicator, name: str, microbatches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reducer, "_FIRST_BUCKET", 512)
    monkeypatch.setattr(reducer, "_BUCKET", 512)
    want = train(SingleCommunicator(), microbatches, wrap=hooked(name))
    assert train(comm, microbatches, wrap=hooked(name), overlap=microbatches == 7) == want


@pytest.mark.parametrize("name", STATEFUL)
def test_state_of_many_ranks_goes_on_in_one_process(comm: Communicator, name: str) -> None:
    alone = SingleCommunicator()
    saved = comm.broadcast_object(resumable(comm, name, None, range(3))[0])
    want = resumable(alone, name, None, range(6))[1]
    assert resumable(alone, name, saved, range(3, 6))[1] == want
    assert resumable(comm, name, saved, range(3, 6))[1] == want
