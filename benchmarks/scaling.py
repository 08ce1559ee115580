"""What a training step costs more on several ranks than on one, dtrain beside PyTorch, in one run on one machine.

    python benchmarks/scaling.py [--ranks 2] [--rounds 15] [--json FILE] [workload ...]

Every rank has a batch of the same size, and one thread. Three times are taken of each library:

    alone   one process, the plain module, nothing else running
    apart   as many such processes at once as there are ranks, which know nothing of each other
    ranks   one job of that many ranks in DistributedDataParallel: over MPI (dtrain), over gloo (PyTorch)

The slow-down is ranks / alone. A part of it is the machine's: processes side by side share caches, memory and power
even if they never communicate, which is apart / alone. The rest, ranks / apart, is what communication costs.
All processes live throughout, and each round measures all of them in turn, so that a machine that gets slower or
faster does so for all; processes that are not measured sleep. Times are medians over rounds; slow-downs are medians
of the rounds' own, with their quartiles. The last column is dtrain's time / PyTorch's. Needs the extra `torch`.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import ExitStack
from typing import Any

from jobs import LIBRARIES, Job, time_together
from machine import machine, write_results
from workloads import WORKLOADS

WAYS = ("alone", "apart", "ranks")
SLOWDOWNS = {
    "slowdown": ("ranks", "alone"),
    "machine": ("apart", "alone"),
    "communication": ("ranks", "apart"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for name in WORKLOADS if name != "tiny"]
    parser.add_argument("workloads", nargs="*", choices=[[], *WORKLOADS], help=f"default: {' '.join(names)}")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    print(f"{machine()}; {options.ranks} ranks of one thread; {options.rounds} rounds; milliseconds per step")
    columns = [f"{way:>8}" for way in WAYS] + [f"{a:>12} / {b:<7}" for a, b in SLOWDOWNS.values()]
    print(" " * 18, " ".join(columns))
    rows = []
    for name in options.workloads or names:
        found = measure(name, options.ranks, options.rounds)
        for library, row in found.items():
            rows.append({"workload": name, "library": library, "ranks": options.ranks, **row})
            shown = [f"{row[f'{way}_ms']:8.2f}" for way in WAYS]
            shown += [
                f"{middle:9.3f} ({low:.3f}-{high:.3f})"
                for low, middle, high in (row[f"{s}_quartiles"] for s in SLOWDOWNS)
            ]
            print(f"{name:9} {LIBRARIES[library]:8} {' '.join(shown)}", flush=True)
        ours, theirs = (found[library] for library in LIBRARIES)
        ratios = {f"{way}_ratio": ours[f"{way}_ms"] / theirs[f"{way}_ms"] for way in WAYS}
        rows.append({"workload": name, "library": "dtrain / torch", "ranks": options.ranks, **ratios})
        print(f"{'':9} {'ratio':8} {' '.join(f'{r:8.2f}' for r in ratios.values())}", flush=True)
    if options.json:
        write_results(options.json, rows)


def measure(name: str, ranks: int, rounds: int) -> dict[str, dict[str, Any]]:
    """For each library the median times and the quartiles of the slow-downs."""
    times: dict[tuple[str, str], list[float]] = {(library, way): [] for library in LIBRARIES for way in WAYS}
    steps = WORKLOADS[name].steps
    with ExitStack() as jobs:
        singles = {library: [jobs.enter_context(Job(library, name)) for _ in range(ranks)] for library in LIBRARIES}
        joint = {library: jobs.enter_context(Job(library, name, ranks)) for library in LIBRARIES}
        order = list(times)
        for _ in range(rounds):
            for library, way in order:
                if way == "alone":  # the same processes as in "apart", one after the other
                    time = statistics.mean(time_together([job], steps) for job in singles[library])
                else:
                    time = time_together(singles[library] if way == "apart" else [joint[library]], steps)
                times[library, way].append(time)
            order.append(order.pop(0))  # nobody is always first
    return {library: summary({way: times[library, way] for way in WAYS}) for library in LIBRARIES}


def summary(times: dict[str, list[float]]) -> dict[str, Any]:
    row: dict[str, Any] = {f"{way}_ms": statistics.median(times[way]) for way in WAYS}
    for name, (way, other) in SLOWDOWNS.items():
        ratios = [a / b for a, b in zip(times[way], times[other], strict=True)]
        row[f"{name}_quartiles"] = (
            statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        )
    return row


if __name__ == "__main__":
    main()
