"""Time of one training step, dtrain beside PyTorch, in one run on one machine.

    python benchmarks/step_time.py [--ranks 1 2] [--rounds 5] [--json FILE] [workload ...]

A step is zero_grad, forward, cross-entropy, backward and SGD with momentum, with one thread per rank.
At 1 rank both libraries train the plain module, at more the module in DistributedDataParallel, over
MPI here and over gloo there. Batch sizes are per rank. The two libraries take turns, each round a
new process that reports the median of its steps; the table shows the median of the rounds, and the
ratio dtrain / PyTorch: below 1 dtrain is faster. Needs the extra `torch`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workloads import WORKLOADS

from launch.runtime import find_mpirun, mpirun_family, settings

WARM_UP = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", choices=[[], *WORKLOADS], help="default: all")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    parser.add_argument("--child", choices=("dtrain", "torch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options.child, options.workloads[0])
        return
    rows = []
    print(f"{machine()}; one thread per rank; median of {options.rounds} rounds, milliseconds per step")
    print(f"{'workload':10} {'ranks':>5} {'dtrain':>9} {'PyTorch':>9} {'ratio':>6}")
    for name in options.workloads or WORKLOADS:
        for ranks in options.ranks:
            times: dict[str, list[float]] = {"dtrain": [], "torch": []}
            for _ in range(options.rounds):
                for library, found in times.items():
                    found.append(start_child(library, name, ranks))
            ours, theirs = (statistics.median(times[library]) for library in ("dtrain", "torch"))
            rows.append(
                {"workload": name, "ranks": ranks, "dtrain_ms": ours, "torch_ms": theirs, "ratio": ours / theirs}
            )
            print(f"{name:10} {ranks:5} {ours:9.3f} {theirs:9.3f} {ours / theirs:6.2f}", flush=True)
    if options.json:
        result = {
            "command": " ".join(["python", *sys.argv]),
            "machine": machine(),
            "date": time.strftime("%Y-%m-%d"),
            "rows": rows,
        }
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


def machine() -> str:
    """The processor, and how many of it."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def start_child(library: str, workload: str, ranks: int) -> float:
    """The median step time that a new process (or `ranks` of them) reports, in milliseconds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    script = [__file__, "--child", library, workload]
    if ranks == 1:
        command = [sys.executable, *script]
    elif library == "torch":
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(ranks),
            *script,
        ]
    else:
        mpirun = find_mpirun()
        environment |= settings(mpirun_family(mpirun)[0])
        command = [mpirun, "-n", str(ranks), sys.executable, *script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return float(json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])["median_ms"])


def run_child(library: str, name: str) -> None:
    """Time one workload with one library in this process and print the median on rank 0."""
    workload = WORKLOADS[name]
    rank, step, finish = (dtrain_step if library == "dtrain" else torch_step)(workload)
    for _ in range(WARM_UP):
        step()
    times = []
    for _ in range(workload.steps):
        start = time.perf_counter()
        step()
        times.append((time.perf_counter() - start) * 1e3)
    if rank == 0:
        print(json.dumps({"median_ms": statistics.median(times)}), flush=True)
    finish()


def dtrain_step(workload: Any) -> tuple[int, Callable[[], None], Callable[[], None]]:
    import dtrain
    import launch
    from dtrain import nn, optim
    from dtrain.nn import functional as F

    job = launch.Job(seed=0, threads=1)
    model = workload.make(nn)
    if job.size > 1:
        model = dtrain.DistributedDataParallel(model, job.comm)
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, y = map(dtrain.from_numpy, workload.batch())

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return job.rank, step, job.comm.close


def torch_step(workload: Any) -> tuple[int, Callable[[], None], Callable[[], None]]:
    import torch
    from torch import distributed, nn, optim
    from torch.nn import functional as F

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rank, several = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")) > 1
    model = workload.make(nn)
    if several:
        distributed.init_process_group("gloo")
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, y = map(torch.from_numpy, workload.batch())

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    def finish() -> None:
        if several:
            distributed.barrier()
            os._exit(0)  # gloo's threads sometimes end a process with "terminate called" on the ordinary way out

    return rank, step, finish


if __name__ == "__main__":
    main()
