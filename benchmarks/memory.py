"""Memory for an optimizer's state, and time of its step, on each rank: AdamW whole and sharded.

    python benchmarks/memory.py [--ranks 1 2 4] [--json FILE] [workload ...]

Each number of ranks is one job over MPI in which DistributedDataParallel trains the workload, first with
AdamW, then with AdamW in ZeroRedundancyOptimizer. state: MiB of state that the rank with most of it keeps (the
file has those of every rank; in a program `optimizer.state_nbytes()` says it).
step: milliseconds of optimizer.step(), with the gathering of the parameters; one thread per rank.
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

STEPS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", choices=[[], *WORKLOADS], help="default: mlp and cnn")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.workloads or ["mlp", "cnn"]
    if options.child:
        run_child(names)
        return
    rows = [row for ranks in options.ranks for row in start_child(names, ranks)]
    print(f"{machine()}; one thread per rank")
    print(f"{'workload':10} {'ranks':>5} {'state, MiB':>10} {'sharded':>8} {'step, ms':>9} {'sharded':>8}")
    for row in rows:
        print(
            f"{row['workload']:10} {row['ranks']:5} {row['state_mib']:10.2f} {row['sharded_state_mib']:8.2f} "
            f"{row['step_ms']:9.3f} {row['sharded_step_ms']:8.3f}"
        )
    if options.json:
        write_results(options.json, rows)


def start_child(names: list[str], ranks: int) -> list[dict[str, Any]]:
    """The rows that a job of so many ranks reports."""
    mpirun = find_mpirun()
    environment = {**os.environ, "DTRAIN_THREADS": "1", **settings(mpirun_family(mpirun)[0], ranks)}
    command = [mpirun, "-n", str(ranks), sys.executable, __file__, "--child", *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def run_child(names: list[str]) -> None:
    """Measure on this rank; rank 0 prints the rows."""
    import dtrain
    import launch
    from dtrain import nn, optim
    from dtrain.parallel import ZeroRedundancyOptimizer

    job = launch.Job()
    for name in names:
        workload = WORKLOADS[name]
        row: dict[str, Any] = {"workload": name, "ranks": job.size}
        for prefix in ("", "sharded_"):
            dtrain.manual_seed(0)
            model = dtrain.DistributedDataParallel(workload.make(nn), job.comm)
            if prefix:
                optimizer: Any = ZeroRedundancyOptimizer(model.parameters(), optim.AdamW, job.comm, lr=1e-3)
            else:
                optimizer = optim.AdamW(model.parameters(), lr=1e-3)
            x, y = (dtrain.from_numpy(a) for a in workload.batch())
            times = []
            for _ in range(STEPS):
                workload.loss(dtrain, model, x, y).backward()
                job.comm.barrier()
                start = time.perf_counter()
                optimizer.step()
                times.append((time.perf_counter() - start) * 1e3)
                optimizer.zero_grad()
            of_ranks = [nbytes / 2**20 for nbytes in job.comm.all_gather_object(optimizer.state_nbytes())]
            row[f"{prefix}state_mib"], row[f"{prefix}state_mib_of_ranks"] = max(of_ranks), of_ranks
            row[f"{prefix}step_ms"] = statistics.median(times[2:])
        job.print(json.dumps(row))


if __name__ == "__main__":
    main()
