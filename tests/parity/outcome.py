"""What came of a name: per kind of check, how many samples there were, and what went wrong."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Outcome", "Tally", "reason"]


@dataclass
class Tally:
    """Samples of one kind of check: how many, and (label, error) of those that failed."""

    total: int = 0
    failures: list[tuple[str, BaseException]] = field(default_factory=list)

    @property
    def passed(self) -> int:
        return self.total - len(self.failures)

    @property
    def complete(self) -> bool:
        return self.total > 0 and not self.failures


@dataclass
class Outcome:
    """What came of a name. `provided` is False where dtrain has nothing of that name."""

    name: str
    provided: bool = True
    out: dict[str, int] = field(default_factory=dict)  # why samples were left out, and how many
    samples: Tally = field(default_factory=Tally)
    errors: Tally = field(default_factory=Tally)
    gradgrad: Tally = field(default_factory=Tally)
    watch: Callable[[str, BaseException, tuple[Any, ...]], None] | None = None

    @property
    def complete(self) -> bool:
        """Whether all samples pass: values, gradients, methods."""
        return self.provided and self.samples.complete

    @property
    def marks(self) -> set[str]:
        """Of "errors" and "gradgrad", what is complete as well."""
        return {mark for mark in ("errors", "gradgrad") if getattr(self, mark).complete}

    def count(self, kind: str, label: str, check: Callable[[], Any], shown: tuple[Any, ...] = ()) -> None:
        """Run one check and note what it raises; `shown` are the values that tell a reader what it was about."""
        from tests.parity.scope import OutOfScope

        tally: Tally = getattr(self, kind)
        try:
            check()
        except OutOfScope as why:
            self.out[str(why)] = self.out.get(str(why), 0) + 1
            return
        except Exception as error:
            tally.failures.append((f"{kind}: {label}" if kind != "samples" else label, error))
            if self.watch is not None:
                self.watch(label, error, shown)
        tally.total += 1

    def first(self) -> str:
        """The first failure in a line."""
        for tally in (self.samples, self.errors, self.gradgrad):
            for label, error in tally.failures:
                return f"{label}: {reason(error)}"
        return ""


def reason(error: BaseException) -> str:
    """An error in a line: what, and where it came from if that is not a comparison."""
    text = " ".join(str(error).split())[:160]
    if type(error).__name__ == "Mismatch":
        return text
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in frames if "/dtrain/" in f.filename]
    place = places[-1] if places else ""
    return f"{type(error).__name__} {place}: {text}".replace(" :", ":")
