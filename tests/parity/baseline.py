"""The names that pass and must go on passing: passed_modules.txt and passed_ops.txt, one a line.

Behind a name stands what else of it is complete: `errors` (dtrain raises for all of PyTorch's error inputs),
`gradgrad` (second-order gradients). A name that is there twice (two branches added it) means both lines.
"""

from __future__ import annotations

from pathlib import Path

from tests.parity.outcome import Outcome

__all__ = ["baseline", "lost", "news", "write"]


def _file(kind: str) -> Path:
    return Path(__file__).with_name(f"passed_{kind}.txt")


def baseline(kind: str) -> dict[str, set[str]]:
    """Name -> marks, of "modules" or "ops"."""
    found: dict[str, set[str]] = {}
    for line in _file(kind).read_text().splitlines():
        if line and not line.startswith("#"):
            name, *marks = line.split()
            found.setdefault(name, set()).update(marks)
    return found


def write(kind: str, names: dict[str, set[str]]) -> None:
    """Replace the file by these names, sorted."""
    lines = [" ".join([name, *sorted(marks)]) for name, marks in sorted(names.items())]
    _file(kind).write_text("\n".join(lines) + "\n")


def lost(outcome: Outcome, kept: dict[str, set[str]]) -> str | None:
    """What a name of the baseline has lost, None where nothing."""
    if outcome.name not in kept:
        return None
    if not outcome.provided:
        return f"{outcome.name} passed before and is not provided any more"
    if not outcome.complete:
        return f"{outcome.name} passed before; now {_first(outcome, 'samples')}"
    gone = kept[outcome.name] - outcome.marks
    return next((f"{outcome.name} passed before; now {_first(outcome, mark)}" for mark in sorted(gone)), None)


def _first(outcome: Outcome, kind: str) -> str:
    from tests.parity.outcome import reason

    tally = getattr(outcome, kind)
    found = next((f"{label}: {reason(error)}" for label, error in tally.failures), "no sample is compared")
    return f"{len(tally.failures)} of {tally.total} {kind} fail, first {found}"


def news(outcome: Outcome, kept: dict[str, set[str]]) -> bool:
    """Whether the baseline should have more of this name."""
    return outcome.complete and (outcome.name not in kept or not outcome.marks <= kept[outcome.name])
