"""The benchmarks' own modules are found as by their scripts; PyTorch is the peer."""

from __future__ import annotations

import pytest

from tests.launch.jobs import ROOT
from tests.nn.conftest import torch

__all__ = ["torch"]


@pytest.fixture(autouse=True)
def beside_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What benchmarks/ holds can be imported, as it can by a script that runs there."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
