"""Communication between two hosts: how much of it a backward pass hides, and the bytes on the wire.

    python benchmarks/hosts.py [--rate 1gbit] [--rounds 8] [--json FILE]      as root, with iproute2

The hosts are emulated on this machine (tests/hosts): network namespaces joined by links of the given rate.
Each has half of the machine's cores. One rank, of one thread, on each trains networks whose backward passes take
longer than their communication: a multilayer perceptron of 27 MiB in twelve equal layers, of which the last to be
sent has no backward pass left to hide behind, and the ResNet-18 of workloads.py, of 43 MiB. Three kinds of step take
turns in the same processes: without communication; with it after the backward pass (overlap=False); with it during
the pass (overlap=True).

    hidden = (after - during) / (after - without)

Bytes are those that a host's network device has sent, per step, beside 2 n (H - 1) / H for messages of n bytes
and H = 2 hosts; with the perceptron for two ranks a host, too. That the bits do not depend on hosts is tested in
tests/hosts.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from machine import machine, write_results
from workloads import WORKLOADS

from launch.runtime import family_of

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests.hosts

WIDTH, LAYERS = 768, 12
BATCH = {"mlp": (2048, WIDTH), "resnet18": (64, 3, 32, 32)}  # of a host
CASES = [("mlp", 1), ("resnet18", 1), ("mlp", 2)]  # ranks per host


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", default="1gbit", help="of the links, as tc writes it")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    parser.add_argument("--child", choices=list(BATCH), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.rounds)
        return
    rows = []
    print(f"{machine()}; two emulated hosts, {options.rate}; medians of {options.rounds} rounds")
    for name, per_host in CASES:
        row = run_on_hosts(options.rate, 2 * per_host, __file__, "--child", name, "--rounds", str(options.rounds))
        rows.append({"workload": name, "rate": options.rate, **row})
        print(
            f"{name}, {per_host} per host: a step takes {row['without_ms']:.0f} ms without communication, "
            f"{row['after_ms']:.0f} with it afterwards, {row['during_ms']:.0f} during backward: "
            f"{row['hidden']:.0%} hidden; {row['sent_bytes'] / 2**20:.2f} MiB sent per host and step, "
            f"{row['of_ideal']:.3f} of the ideal",
            flush=True,
        )
    if options.json:
        write_results(options.json, rows)


def run_on_hosts(rate: str, ranks: int, *program: str) -> Any:
    """The JSON that a program prints on `ranks` ranks of two emulated hosts."""
    from tests.hosts.emulated import hosts

    with hosts(2, rate=rate) as cluster:
        done = cluster.mpirun(ranks, [sys.executable, *program], timeout=3600, OMP_NUM_THREADS="1")
    if done.returncode:
        raise RuntimeError(f"the ranks failed:\n{done.stdout}{done.stderr}")
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


def sent() -> int:
    """Bytes that this host has sent so far."""
    line = next(s for s in Path("/proc/net/dev").read_text().splitlines() if s.strip().startswith("eth0"))
    return int(line.split(":")[1].split()[8])


def child(name: str, rounds: int) -> None:
    import dtrain
    import launch
    from dtrain import nn

    # Hosts have processors of their own: those of this machine are dealt out.
    host, count = int(socket.gethostname().removeprefix("host")), max(1, (os.cpu_count() or 1) // 2)
    os.sched_setaffinity(0, range((host - 1) * count % (os.cpu_count() or 1), (host - 1) * count + count))
    job = launch.Job(seed=0, threads=1)
    from mpi4py import MPI

    def network() -> nn.Module:
        if name == "resnet18":
            return WORKLOADS[name].make(nn)
        layers: list[nn.Module] = []
        for _ in range(LAYERS):
            layers += [nn.Linear(WIDTH, WIDTH), nn.ReLU()]
        return nn.Sequential(*layers)

    models = {
        "without": dtrain.DistributedDataParallel(network()),
        "after": dtrain.DistributedDataParallel(network(), job.comm, overlap=False),
        "during": dtrain.DistributedDataParallel(network(), job.comm, overlap=True),
    }
    samples, *shape = BATCH[name]
    x = dtrain.randn(samples // job.local_size, *shape)
    times: dict[str, list[float]] = {kind: [] for kind in models}
    bytes_sent: list[int] = []
    for number in range(rounds + 2):
        for kind, model in models.items():
            job.comm.barrier()
            before, start = sent(), time.perf_counter()
            model(x).square().mean().backward()
            slowest = max(job.comm.all_gather_object(time.perf_counter() - start))
            model.zero_grad()
            if number >= 2:  # the first ones make windows and put gradients in order
                times[kind].append(slowest * 1e3)
                bytes_sent += [sent() - before] if kind != "without" else []
    of_hosts = job.comm.all_gather_object(statistics.median(bytes_sent))
    without, after, during = (statistics.median(times[kind]) for kind in ("without", "after", "during"))
    ideal = 4 * sum(p.numel() for p in network().parameters())  # 2 n (H - 1) / H with H = 2
    result = {
        "mpi": family_of(MPI.Get_library_version()),
        "ranks_per_host": job.local_size,
        "without_ms": without,
        "after_ms": after,
        "during_ms": during,
        "hidden": (after - during) / (after - without),
        "sent_bytes": max(of_hosts),
        "ideal_bytes": ideal,
        "of_ideal": max(of_hosts) / ideal,
    }
    job.print(json.dumps(result))


if __name__ == "__main__":
    main()
