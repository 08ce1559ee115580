"""`python -m tests.parity.update [beginning of names ...]` adds what passes now to the baseline."""

from __future__ import annotations

import sys

from tests.parity import modules, ops
from tests.parity.baseline import baseline, lost, news, write


def main(starts: tuple[str, ...]) -> None:
    """Run the names that begin so (all, without any) and write the files; names that passed are never taken out."""
    for kind, module in (("modules", modules), ("ops", ops)):
        kept = baseline(kind)
        for name in module.names():
            if starts and not name.startswith(starts):
                continue
            outcome = module.run(name)
            if problem := lost(outcome, kept):
                print(problem)
            elif news(outcome, kept):
                kept.setdefault(name, set()).update(outcome.marks)
                print(f"added {name} {' '.join(sorted(outcome.marks))}")
        write(kind, kept)


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
