"""Weights for ranks in processes: one of each host gets them, an error reaches all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import dtrain
from dtrain import hub
from dtrain.comm import Communicator


@pytest.fixture
def folder(comm: Communicator) -> Iterator[Path]:
    """A folder that all ranks of a host see, and no other host."""
    with tempfile.TemporaryDirectory() as own:
        yield Path(comm.host_group().broadcast_object(own))
        comm.barrier()


def test_weights_of_a_url(comm: Communicator, folder: Path) -> None:
    if comm.local_rank == 0:
        dtrain.save({"w": dtrain.arange(5)}, folder / "online.pth")
    comm.barrier()
    url = (folder / "online.pth").as_uri()
    state = hub.load_state_dict_from_url(url, folder / "cache", comm=comm)
    assert state["w"].tolist() == [0, 1, 2, 3, 4]
    comm.barrier()
    assert sorted(os.listdir(folder / "cache")) == [".online.pth.lock", "online.pth"]


def test_an_error_reaches_all_ranks(comm: Communicator, folder: Path) -> None:
    kind = OSError if comm.local_rank == 0 else RuntimeError
    with pytest.raises(kind, match="could not download file:.*no.pth"):
        hub.load_state_dict_from_url((folder / "no.pth").as_uri(), folder / "cache", comm=comm)
    comm.barrier()
