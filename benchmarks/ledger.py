"""Cost of the divergence ledger: the share of a training loop's time that goes into its comparisons.

    python benchmarks/ledger.py [--ranks 2] [--every 10] [--json FILE] [workload ...]

Each workload is trained by DistributedDataParallel(..., ledger=EVERY) in one job over MPI, one thread per rank;
the comparisons, two in EVERY steps, are timed inside the loop. The numbers are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from machine import machine, write_results
from workloads import WORKLOADS

from launch.runtime import find_mpirun, mpirun_family, settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", choices=[[], *WORKLOADS], help="default: mlp and cnn")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.workloads or ["mlp", "cnn"]
    if options.child:
        run_child(names, options.every)
        return
    mpirun = find_mpirun()
    environment = {**os.environ, "DTRAIN_THREADS": "1", **settings(mpirun_family(mpirun)[0], options.ranks)}
    command = [mpirun, "-n", str(options.ranks), sys.executable, __file__, "--child", "--every", str(options.every)]
    done = subprocess.run([*command, *names], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    print(f"{machine()}; {options.ranks} ranks of one thread, ledger={options.every}")
    print(done.stdout, end="")
    if options.json:
        write_results(options.json, [json.loads(line) for line in done.stdout.splitlines()])


def run_child(names: list[str], every: int) -> None:
    """Train and time on this rank; rank 0 prints the rows."""
    import dtrain
    import launch
    from dtrain import nn, optim
    from dtrain.nn import functional as F

    job = launch.Job()
    for name in names:
        workload = WORKLOADS[name]
        model = dtrain.DistributedDataParallel(workload.make(nn), job.comm, ledger=every)
        optimizer = optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        x, y = (dtrain.from_numpy(a) for a in workload.batch())
        spent: list[float] = []
        compare = model.ledger.compare

        def timed(*args: Any, compare: Any = compare, spent: list[float] = spent) -> None:
            start = time.perf_counter()
            compare(*args)
            spent.append(time.perf_counter() - start)

        model.ledger.compare = timed
        steps = every * max(4, workload.steps // every)
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            times.append(time.perf_counter() - start)
        # Medians: a comparison also waits for a rank that happens to be late, as the next exchange would.
        seconds = statistics.median(times)
        cost = statistics.median(spent) * 2 / every
        row = {
            "workload": name,
            "ranks": job.size,
            "every": every,
            "step_ms": seconds * 1e3,
            "ledger_ms_per_step": cost * 1e3,
            "cost_percent": 100 * cost / seconds,
        }
        job.print(json.dumps(row))


if __name__ == "__main__":
    main()
