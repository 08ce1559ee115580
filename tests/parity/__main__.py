"""`python -m tests.parity [beginning of names ...]` prints the table by name, and the totals below it."""

from __future__ import annotations

import sys

from tests.parity import modules, ops
from tests.parity.table import rows, table


def main(starts: tuple[str, ...]) -> None:
    """Run the names that begin so (all, without any): a line each as soon as it is known, then the totals."""
    for kind, module in (("modules", modules), ("ops", ops)):
        names = [name for name in module.names() if name.startswith(starts or "")]
        outcomes = []
        for name in names:
            outcomes.append(module.run(name))
            for row in rows(outcomes[-1:]):
                print(row, flush=True)
        if names:
            print("", *table(kind, outcomes, failures=False), "", sep="\n")


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
