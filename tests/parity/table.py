"""The table by name that the summary of a test run ends with."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from tests.parity.baseline import baseline, news
from tests.parity.outcome import Outcome, reason

__all__ = ["rows", "table"]

TITLES = {"modules": "module_db: torch.nn", "ops": "op_db: functions"}


def rows(outcomes: list[Outcome]) -> Iterator[str]:
    """A line by name: passed, failed or not provided; samples, error inputs and second gradients; the first failure."""
    for o in outcomes:
        if not o.provided:
            yield f"{'not provided':13} {o.name}"
        elif not o.samples.total:
            yield f"{'out of scope':13} {o.name}"
        else:
            marks = (("samples", o.samples), ("errors", o.errors), ("gradgrad", o.gradgrad))
            counts = ", ".join(f"{mark} {t.passed}/{t.total}" for mark, t in marks if t.total)
            first = o.first()
            yield f"{'passed' if o.complete else 'failed':13} {o.name:50} {counts}{'; ' * bool(first)}{first}"


def table(kind: str, outcomes: list[Outcome], failures: bool = True) -> Iterator[str]:
    """Totals; then the names that fail with their first failure, and the names that are not provided."""
    outcomes = sorted(outcomes, key=lambda o: o.name)
    counted = [o for o in outcomes if not o.provided or o.samples.total]
    complete = [o for o in counted if o.complete]
    missing = [o.name for o in counted if not o.provided]
    failed = [o for o in counted if o.provided and not o.complete]
    yield (
        f"{TITLES[kind]}: {len(complete)} of {len(counted)} names complete, "
        f"{len(failed)} failed, {len(missing)} not provided"
    )
    for mark, what in (("samples", "samples pass"), ("errors", "error inputs raise"), ("gradgrad", "second gradients")):
        tallies = [getattr(o, mark) for o in counted]
        passed, total = sum(t.passed for t in tallies), sum(t.total for t in tallies)
        if total:
            names = sum(t.complete for t in tallies)
            yield f"  {what}: {passed} of {total} ({100 * passed / total:.1f}%), all of them in {names} names"
    if not failures:
        return
    for o in failed:
        yield f"  failed {o.name} {o.samples.passed}/{o.samples.total}: {o.first()}"
    for mark in ("errors", "gradgrad"):
        for o in complete:
            tally = getattr(o, mark)
            if tally.failures:
                label, error = tally.failures[0]
                yield f"  {o.name} {mark} {tally.passed}/{tally.total}: {label}: {reason(error)}"
    if missing:
        yield from _paragraph(f"not provided: {', '.join(missing)}")
    new = [o.name for o in counted if news(o, baseline(kind))]
    if new:
        text = f"passed, not in the baseline yet (`python -m tests.parity.update` adds them): {', '.join(new)}"
        yield from _paragraph(text)


def _paragraph(text: str) -> list[str]:
    return textwrap.wrap(text, 118, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
