"""One test per name of PyTorch's lists, and the table at the end of the run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.parity.pytorch import why_missing

RESULTS: pytest.StashKey[dict[str, list[Any]]] = pytest.StashKey()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`module_name`, `op_name`, `optimizer_name`: names in scope, or one skipped test where PyTorch is missing."""
    for fixture, kind in (("module_name", "modules"), ("op_name", "ops"), ("optimizer_name", "optimizers")):
        if fixture not in metafunc.fixturenames:
            continue
        if reason := why_missing():
            metafunc.parametrize(fixture, [pytest.param("", marks=pytest.mark.skip(reason=reason))], ids=["no-pytorch"])
            continue
        import tests.parity.modules
        import tests.parity.ops
        import tests.parity.optimizers

        metafunc.parametrize(fixture, getattr(tests.parity, kind).names())


@pytest.fixture
def judged(request: pytest.FixtureRequest) -> Any:
    """A function of (kind, outcome): it fails for what the baseline holds, and expects no more of the other names."""
    from tests.parity.baseline import baseline, lost

    def judge(kind: str, outcome: Any) -> None:
        request.config.stash.setdefault(RESULTS, {}).setdefault(kind, []).append(outcome)
        if problem := lost(outcome, baseline(kind)):
            pytest.fail(f"{problem}\n`python -m tests.parity.show {outcome.name}` shows more", pytrace=False)
        if not outcome.provided:
            pytest.xfail("not provided")
        if not outcome.complete:
            pytest.xfail(outcome.first() or "out of scope")

    return judge


def pytest_report_teststatus(report: pytest.TestReport) -> Any:
    """Names that never passed are not failures to be listed one by one: the table has them."""
    if "tests/parity/" in report.nodeid and report.skipped and hasattr(report, "wasxfail"):
        return "not yet", "n", "NOT YET"
    return None


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> Iterator[None]:
    """The table."""
    from tests.parity.table import table

    for kind, outcomes in config.stash.get(RESULTS, {}).items():
        terminalreporter.section(f"parity with PyTorch: {kind}")
        for line in table(kind, outcomes):
            terminalreporter.write_line(line)
