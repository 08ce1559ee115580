"""Fixtures for tests of any folder."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.hosts.emulated import Cluster

# What a shell starts in the background ignores Ctrl-C, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def torch() -> Any:
    """The torch package; a test that asks for it is skipped, visibly, where it is missing."""
    return pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")


@pytest.fixture
def emulated_hosts() -> Iterator[Callable[..., Cluster]]:
    """`emulated_hosts(2, rate="1gbit")` is `hosts(2, rate="1gbit")` of tests/hosts until the test ends.

    The test is skipped where hosts cannot be emulated.
    """
    from tests.hosts.emulated import hosts, why_not

    if reason := why_not():
        pytest.skip(f"hosts cannot be emulated: {reason}")
    with ExitStack() as stack:
        yield lambda count, rate=None: stack.enter_context(hosts(count, rate))
