"""Time of one training step, dtrain beside PyTorch, in one run on one machine.

    python benchmarks/step_time.py [--ranks 1 2] [--rounds 5] [--json FILE] [workload ...]

A step is zero_grad, forward, cross-entropy, backward and the optimizer's step, with one thread per rank.
At 1 rank both libraries train the plain module, at more the module in DistributedDataParallel, over
MPI here and over gloo there. Batch sizes are per rank. The two libraries take turns, each round a
new process that reports the median of its steps; the table shows the median of the rounds, and the
ratio dtrain / PyTorch: below 1 dtrain is faster. Needs the extra `torch`.
"""

from __future__ import annotations

import argparse
import statistics

from jobs import LIBRARIES, Job, time_together
from machine import machine, write_results
from workloads import WORKLOADS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", choices=[[], *WORKLOADS], help="default: all")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    rows = []
    print(f"{machine()}; one thread per rank; median of {options.rounds} rounds, milliseconds per step")
    print(f"{'workload':10} {'ranks':>5} {'dtrain':>9} {'PyTorch':>9} {'ratio':>6}")
    for name in options.workloads or WORKLOADS:
        for ranks in options.ranks:
            times: dict[str, list[float]] = {library: [] for library in LIBRARIES}
            for _ in range(options.rounds):
                for library, found in times.items():
                    with Job(library, name, ranks) as job:
                        found.append(time_together([job], WORKLOADS[name].steps))
            ours, theirs = (statistics.median(times[library]) for library in LIBRARIES)
            rows.append(
                {"workload": name, "ranks": ranks, "dtrain_ms": ours, "torch_ms": theirs, "ratio": ours / theirs}
            )
            print(f"{name:10} {ranks:5} {ours:9.3f} {theirs:9.3f} {ours / theirs:6.2f}", flush=True)
    if options.json:
        write_results(options.json, rows)


if __name__ == "__main__":
    main()
