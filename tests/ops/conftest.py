"""PyTorch as the peer to compare with, where it is installed."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def torch() -> Any:
    """The torch package; a test that asks for it is skipped, visibly, where it is missing."""
    return pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
