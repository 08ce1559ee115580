"""Memory shared by the ranks of a host: seen by all after a meeting, nameless, dispensable."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from dtrain.comm import Communicator, SingleCommunicator
from tests.parallel.training import train


@pytest.mark.mpi(min_size=2)
def test_what_was_written_before_a_meeting_is_seen_after_it(comm: Communicator) -> None:
    comm = comm.host_group()  # all ranks, unless they were started on several hosts
    window = comm.window(8 * 100)
    assert window is not None
    parts = [part.view(np.int64) for part in window.parts]
    assert [part.size for part in parts] == [100] * comm.size
    for turn in range(500):
        parts[comm.rank][:] = turn * comm.size + comm.rank
        window.meet()
        for rank, part in enumerate(parts):
            assert (part == turn * comm.size + rank).all()
        window.meet()


@pytest.mark.mpi(min_size=2)
def test_the_memory_has_no_name(comm: Communicator) -> None:
    """So there is nothing to remove, whatever ends the job."""
    before = set(os.listdir("/dev/shm"))
    window = comm.host_group().window(1 << 20)
    comm.barrier()
    maps = Path("/proc/self/maps").read_text()
    assert (window is not None and "memfd:dtrain-window" in maps) or comm.local_size == 1
    assert not [name for name in set(os.listdir("/dev/shm")) - before if "dtrain" in name]
    comm.barrier()


@pytest.mark.mpi(min_size=2)
def test_without_it_mpi_gives_the_same_bits(
    comm: Communicator, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(name: str) -> int:
        raise OSError("not today")

    want = train(SingleCommunicator(), 8)
    assert train(comm, 8) == want
    monkeypatch.setattr(os, "memfd_create", refuse)
    assert train(comm, 8) == want
    if comm.rank == 0:
        assert "cannot share memory (not today)" in capfd.readouterr().err
