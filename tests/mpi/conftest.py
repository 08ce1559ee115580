"""Tests that run on any number of ranks: `mpirun -n 3 python -m pytest tests/mpi`, or serially.

Serially a test gets a communicator of one process, and mpi4py is not imported. Under mpirun

- after each test the ranks compare the outcome: a test that failed on one rank fails on all, and
  rank 0, the only one that prints, shows the traceback of the rank that failed;
- a rank that failed and then waits in vain for the others prints its traceback and ends the job;
- a rank that hangs for $MPI_TEST_TIMEOUT seconds (60) prints the stacks of its threads and ends it.

A test that needs several ranks is marked `@pytest.mark.mpi(min_size=2)`, the mark of pytest-mpi,
and is skipped serially. All ranks must collect the same tests in the same order.
"""

from __future__ import annotations

import faulthandler
import io
import os
import sys
import time
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import pytest

from dtrain.comm import Communicator, MPICommunicator, SingleCommunicator
from launch.environment import launched_world

LIMIT = float(os.environ.get("MPI_TEST_TIMEOUT", "60"))
GRACE = 5.0  # seconds that a failed rank waits for the others before it ends the job


class Ranks:
    """The ranks of this test run, seen from one of them."""

    def __init__(self, config: pytest.Config) -> None:
        from mpi4py import MPI

        self.mpi = MPI
        self.outcomes = MPI.COMM_WORLD.Dup()  # the tests' own messages stay apart from these
        self.rank = self.outcomes.rank
        self.failures: list[str] = []  # tracebacks of this rank in the present test
        capture: Any = config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            self.stderr = os.fdopen(os.dup(2), "w")
        self.hidden = io.StringIO()
        reporter: Any = config.pluginmanager.getplugin("terminalreporter")
        if self.rank > 0 and reporter is not None:
            reporter._tw._file = self.hidden

    def compare(self, test: str) -> str:
        """Wait for the other ranks; returns what failed elsewhere, "" if nothing did."""
        mine, worst = np.array([len(self.failures)], "i"), np.zeros(1, "i")
        request = self.outcomes.Iallreduce(mine, worst, self.mpi.MAX)
        start = time.monotonic()
        while not request.Test():
            # One that has not failed is a patient one: a rank that hangs ends the job itself.
            if self.failures and time.monotonic() - start > GRACE:
                self.abort(f"{test} FAILED, other ranks hang:\n" + "\n".join(self.failures))
            time.sleep(0.0005)
        if not worst[0]:
            return ""
        of_ranks = self.outcomes.allgather("\n".join(self.failures))
        return "\n".join(f"[rank {r}]\n{t}" for r, t in enumerate(of_ranks) if t and r != self.rank)

    def abort(self, message: str) -> None:
        self.stderr.write(f"\n[rank {self.rank}] {message}\n")
        self.stderr.flush()
        time.sleep(0.3)  # mpirun may end the job before it has read what a rank has written last
        self.mpi.COMM_WORLD.Abort(1)


RANKS = pytest.StashKey[Ranks]()


@pytest.hookimpl(trylast=True)  # after the terminal's reporter has been made
def pytest_configure(config: pytest.Config) -> None:
    world = launched_world()
    if world is None or world.size == 1:
        return
    config.option.with_mpi = True  # tell pytest-mpi, so that --with-mpi need not be given
    ranks = config.stash[RANKS] = Ranks(config)
    if ranks.outcomes.size != world.size:
        raise pytest.UsageError(
            f"{world.launcher} has started {world.size} processes, but MPI sees "
            f"{ranks.outcomes.size}: use the mpirun beside {sys.executable}"
        )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """pytest-mpi takes the name of this folder for its mark, and would skip all tests serially."""
    for item in items:
        if item.get_closest_marker("mpi") is None:
            item.own_markers[:] = [
                mark for mark in item.own_markers if mark.kwargs.get("reason") != "need --with-mpi option to run"
            ]


@pytest.hookimpl(wrapper=True, trylast=True)  # pytest sets the same timer, to its faulthandler_timeout
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    ranks = item.config.stash.get(RANKS, None)
    if ranks is None:
        return (yield)
    ranks.failures.clear()
    faulthandler.dump_traceback_later(LIMIT, exit=True, file=ranks.stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    ranks = item.config.stash.get(RANKS, None)
    if ranks is None:
        return report
    if report.failed:
        ranks.failures.append(report.longreprtext)
    if report.when == "teardown":  # the last of a test's reports, whatever happened before
        elsewhere = ranks.compare(item.nodeid)
        if elsewhere and not ranks.failures:
            report.outcome, report.longrepr = "failed", elsewhere
    return report


def pytest_unconfigure(config: pytest.Config) -> None:
    ranks = config.stash.get(RANKS, None)
    session: Any = config.pluginmanager.getplugin("session")
    if ranks is not None and session is not None and session.exitstatus > 1:
        # Not failed tests, which ranks agree on, but for example a file that cannot be imported.
        ranks.abort(f"pytest ended with status {session.exitstatus}\n{ranks.hidden.getvalue()}")


@pytest.fixture(scope="session")
def world(pytestconfig: pytest.Config) -> Communicator:
    """All ranks. Made once: an MPI has room for a limited number of communicators."""
    return MPICommunicator() if RANKS in pytestconfig.stash else SingleCommunicator()


@pytest.fixture
def comm(world: Communicator) -> Iterator[Communicator]:
    """The communicator of all ranks, as new."""
    yield world
    world.close()
    world.microbatches, world.on_microbatches, world.on_helper_error = world.size, None, None
