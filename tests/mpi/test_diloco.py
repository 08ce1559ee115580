"""DiLoCo over MPI: one process computes what all ranks must get."""

from __future__ import annotations

import pytest

from dtrain.comm import Communicator, MPICommunicator, SingleCommunicator
from tests.parallel.diloco import INNER, Run, batches


@pytest.mark.parametrize("window", [True, False])
def test_same_bits_as_one_process(comm: Communicator, window: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a checkpoint in the middle of a round."""
    if not window:
        monkeypatch.setattr(MPICommunicator, "window", lambda comm, nbytes, patient=False: None)
    steps = batches(5, 6)

    def run(comm: Communicator) -> tuple[str, float]:
        training = Run(comm, 5, INNER["AdamW"], sync_every=3)
        training.train(steps[:4])
        training.optimizer.consolidate_state_dict()
        state = comm.broadcast_object(training.optimizer.state_dict() if comm.rank == 0 else None)
        start = training.model.state_dict()
        training = Run(comm, 5, INNER["AdamW"], sync_every=3)
        training.model.load_state_dict(start)
        training.optimizer.load_state_dict(state)
        training.train(steps[4:])
        return training.fingerprint(), training.model.loss

    assert run(comm) == run(SingleCommunicator())
