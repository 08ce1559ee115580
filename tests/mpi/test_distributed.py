"""DistributedDataParallel over MPI: one process computes what all ranks must get."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dtrain.comm import Communicator, SingleCommunicator
from dtrain.parallel import NaiveDistributedDataParallel, reducer
from tests.parallel.test_distributed import gradients_of_branches
from tests.parallel.test_no_sync import train as train_with_no_sync
from tests.parallel.training import make_net, make_sync_net, train
from tests.test_captured import train as train_captured


@pytest.mark.parametrize("make", [make_net, make_sync_net])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("microbatches", [4, 12])
def test_same_bits_as_one_process(
    comm: Communicator, microbatches: int, overlap: bool, autocast: bool, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With BatchNorm and with SyncBatchNorm, in float32 and in bfloat16."""
    monkeypatch.setattr(reducer, "_FIRST_BUCKET", 512)  # several messages, where messages are sent
    monkeypatch.setattr(reducer, "_BUCKET", 512)
    want = train(SingleCommunicator(), microbatches, make=make, autocast=autocast)
    assert train(comm, microbatches, make=make, autocast=autocast, overlap=overlap) == want


@pytest.mark.parametrize("make", [make_net, make_sync_net])
def test_same_bits_with_no_sync(comm: Communicator, make: Any) -> None:
    assert train_with_no_sync(comm, make=make) == train_with_no_sync(SingleCommunicator(), make=make)


@pytest.mark.parametrize("captured", [False, True])
def test_same_bits_with_captured_steps(comm: Communicator, captured: bool) -> None:
    want = train_captured(False, "images", "sgd", comm=SingleCommunicator(), microbatches=12)
    assert train_captured(captured, "images", "sgd", comm=comm, microbatches=12)[1] == want[1]


@pytest.mark.parametrize("overlap", [False, True])
def test_unused_shared_and_changing_parameters(comm: Communicator, overlap: bool) -> None:
    want = gradients_of_branches(SingleCommunicator(), 6)
    assert gradients_of_branches(comm, 6, overlap=overlap) == want


@pytest.mark.parametrize("overlap", [False, True])
def test_the_fast_mode_is_right_within_rounding(comm: Communicator, overlap: bool) -> None:
    _, want = train(SingleCommunicator(), 4)
    _, losses = train(comm, 4, exact=False, overlap=overlap)
    np.testing.assert_allclose(losses, want, rtol=1e-4)


def test_same_bits_as_the_naive_twin(comm: Communicator) -> None:
    naive, _ = train(comm, 8, wrap=NaiveDistributedDataParallel, dtype=np.float64)
    assert train(comm, 8, dtype=np.float64)[0] == naive
