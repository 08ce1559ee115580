"""The benchmarks' own modules are found, as their scripts find them."""

from __future__ import annotations

import pytest

from tests.launch.jobs import ROOT


@pytest.fixture(autouse=True)
def beside_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What benchmarks/ holds can be imported, as it can by a script that runs there."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
