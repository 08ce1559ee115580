"""DiLoCo over a slow link: bytes, time and accuracy of one epoch of Fashion-MNIST, beside DistributedDataParallel.

    python benchmarks/diloco.py [--rate 100mbit] [--epochs 1] [--json FILE]      as root, with iproute2

Two hosts are emulated on this machine (tests/hosts), joined by a link of the given rate. One rank, of one thread, on
each trains the CNN of benchmarks/workloads.py with 4 microbatches of 32 images and SGD with Nesterov momentum; DiLoCo's
4 workers use it as their inner optimizer and meet every H steps. sent: what a host's network device has sent, per step.
H = 1 is DistributedDataParallel.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from typing import Any

import numpy as np
from hosts import run_on_hosts, sent
from machine import machine, write_results
from workloads import WORKLOADS

RUNS = [("DistributedDataParallel", 1), ("DiLoCo", 10), ("DiLoCo", 50), ("local SGD", 10)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", default="100mbit", help="of the link, as tc writes it")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    parser.add_argument("--child", nargs=2, metavar=("NAME", "H"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], int(options.child[1]), options.epochs)
        return
    rows = []
    print(f"{machine()}; two emulated hosts, {options.rate}; {options.epochs} epochs")
    print(f"{'':24} {'H':>3} {'sent, KiB/step':>14} {'ms/step':>8} {'accuracy':>8}")
    for name, every in RUNS:
        row = run_on_hosts(options.rate, 2, __file__, "--epochs", str(options.epochs), "--child", name, str(every))
        rows.append(row)
        print(
            f"{name:24} {every:3} {row['sent_bytes_per_step'] / 1024:14.1f} {row['step_ms']:8.1f} "
            f"{row['accuracy']:8.2%}",
            flush=True,
        )
    if options.json:
        write_results(options.json, rows)


def child(name: str, every: int, epochs: int) -> None:
    import dtrain
    import launch
    from dtrain import data, nn, optim
    from dtrain.nn import functional as F
    from dtrain.parallel import DiLoCo

    job = launch.Job(seed=0, microbatches=4, threads=1)
    net = WORKLOADS["cnn"].make(nn)
    inner = optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4, nesterov=True)
    if name == "DistributedDataParallel":
        model: Any = dtrain.DistributedDataParallel(net, job.comm)
        optimizer: Any = inner
    else:
        outer = {"outer": functools.partial(optim.SGD, lr=1.0)} if name == "local SGD" else {}
        model = DiLoCo(net, inner, job.comm, sync_every=every, **outer)
        optimizer = model.optimizer
    loader = data.DataLoader(data.FashionMNIST(train=True), 128, shuffle=True, comm=job.comm)
    schedule = optim.lr_scheduler.CosineAnnealingLR(inner, epochs * loader.steps)
    before, start = sent(), time.perf_counter()
    for _ in range(epochs):
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            if every > 1 or model.synchronized:
                optimizer.step()
                optimizer.zero_grad()
            if model.synchronized:
                schedule.step()
    if every > 1:
        optimizer.synchronize()
    seconds, nbytes, steps = time.perf_counter() - start, sent() - before, epochs * loader.steps
    model.eval()
    counts = np.zeros(2, np.int64)
    with dtrain.no_grad():
        for x, y in data.DataLoader(data.FashionMNIST(train=False), 1000, comm=job.comm):
            counts += int((model(x).argmax(1) == y).sum().item()), len(y)
    job.comm.allreduce_(counts)
    row = {
        "name": name,
        "sync_every": every,
        "sent_bytes_per_step": nbytes / steps,
        "step_ms": seconds / steps * 1e3,
        "accuracy": float(counts[0] / counts[1]),
        "parameter_bytes": sum(p.array.nbytes for p in net.parameters()),
    }
    job.print(json.dumps(row))


if __name__ == "__main__":
    main()
