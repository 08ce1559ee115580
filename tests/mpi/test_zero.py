"""ZeroRedundancyOptimizer over MPI: one process, unsharded, computes what all ranks must get."""

from __future__ import annotations

from typing import Any

import pytest

from dtrain.comm import Communicator, MPICommunicator, SingleCommunicator
from dtrain.parallel import zero
from tests.parallel.sharded import OPTIMIZERS, Run, plain
from tests.parallel.training import fingerprint


@pytest.mark.parametrize("window", [True, False])
def test_bytes_of_the_unsharded_optimizer(comm: Communicator, window: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero, "_CHUNK", 50)
    if not window:
        monkeypatch.setattr(MPICommunicator, "window", lambda comm, nbytes, patient=False: None)

    def run(comm: Communicator, shard: bool) -> Any:
        training = Run(comm, OPTIMIZERS[2], shard)
        training.train(7)
        return fingerprint(training.net), plain(training.state())

    assert run(comm, shard=True) == run(SingleCommunicator(), shard=False)
