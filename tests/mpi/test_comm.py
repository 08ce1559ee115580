"""The shared checks on MPI ranks, or in one process without MPI."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dtrain.comm import Communicator
from tests.comm.collectives import CHECKS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_collectives(check: Callable[[Communicator], None], comm: Communicator) -> None:
    check(comm)


def test_wait_raises_what_the_helper_thread_raised(comm: Communicator) -> None:
    def divide(twin: Communicator, x: int) -> float:
        return 1 / x

    request = comm.start(divide, 0)
    with pytest.raises(ZeroDivisionError) as caught:
        request.wait()
    assert caught.traceback[-1].name == "divide"
    assert comm.start(divide, 4).wait() == 0.25
