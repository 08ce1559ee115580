"""Every module of PyTorch's list in scope; see `tests/parity/modules.py`."""

from __future__ import annotations

from typing import Any


def test_module(module_name: str, judged: Any) -> None:
    from tests.parity.modules import run

    judged("modules", run(module_name))


def test_baseline_names_modules_of_the_list(torch: Any) -> None:
    from tests.parity.baseline import baseline
    from tests.parity.modules import names

    assert set(baseline("modules")) <= set(names())
