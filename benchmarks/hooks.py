"""What communication hooks save and cost: bytes sent per step, and accuracy after one epoch of Fashion-MNIST.

    python benchmarks/hooks.py [--ranks 2] [--microbatches 4] [--seeds 1] [--json FILE] [hook ...]

The network and its training are those of examples/train.py (421,834 parameters, 1.6 MiB; 469 steps of 128 images), on
as many images as are found. Bytes are those that a rank hands to its communicator for others (the largest rank's, the
median step's), all gradients as messages; "none" is training without a hook. PowerSGD compresses after 10% of the
steps, and it is a later step whose bytes are shown. Accuracy does not depend on the number of ranks; bytes do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import machine, write_results

from launch.runtime import find_mpirun, mpirun_family, settings

STEPS = 469


def hooks() -> dict[str, Callable[[], tuple[Any, Any]] | None]:
    """name -> makes (state, hook)"""
    from dtrain.parallel.hooks import ErrorFeedback, default_hooks, powerSGD_hook, quantization_hooks, topk_hook

    def power(rank: int) -> Callable[[], tuple[Any, Any]]:
        return lambda: (powerSGD_hook.PowerSGDState(None, rank, STEPS // 10), powerSGD_hook.powerSGD_hook)

    return {
        "none": None,
        "fp16": lambda: (None, default_hooks.fp16_compress_hook),
        "bf16": lambda: (None, default_hooks.bf16_compress_hook),
        "int8": lambda: (None, quantization_hooks.quantization_perchannel_hook),
        "int8 with feedback": lambda: (ErrorFeedback(), quantization_hooks.quantization_perchannel_hook),
        "topk": lambda: (topk_hook.TopKState(), topk_hook.topk_hook),
        "PowerSGD, rank 1": power(1),
        "PowerSGD, rank 2": power(2),
        "PowerSGD, rank 4": power(4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hooks", nargs="*", choices=[[], *hooks()], help="default: all")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--microbatches", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=1, help="how many trainings of each; accuracy is their mean")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], int(options.child[1]), options.microbatches)
        return
    rows: list[dict[str, Any]] = []
    print(f"{machine()}; {options.ranks} ranks, {options.microbatches} microbatches; {options.seeds} seeds")
    print(f"{'hook':20} {'accuracy':>9} {'bytes a step':>13} {'of none':>8}")
    for name in options.hooks or hooks():
        runs = [start_child(name, seed, options.ranks, options.microbatches) for seed in range(options.seeds)]
        row = {"hook": name, **runs[0], "accuracy": statistics.mean(run["accuracy"] for run in runs)}
        row["of_none"] = row["bytes_per_step"] / (rows[0] if rows else row)["bytes_per_step"]
        row["accuracies"] = [run["accuracy"] for run in runs]
        rows.append(row)
        print(f"{name:20} {row['accuracy']:9.2%} {row['bytes_per_step']:13,} {row['of_none']:8.3f}", flush=True)
    print(json.dumps(rows))
    if options.json:
        write_results(options.json, rows)


def start_child(name: str, seed: int, ranks: int, microbatches: int) -> dict[str, Any]:
    """What a job of so many ranks reports."""
    mpirun = find_mpirun()
    script = [__file__, "--child", name, str(seed), "--microbatches", str(microbatches)]
    environment = {**os.environ, **settings(mpirun_family(mpirun)[0], ranks), "OMP_NUM_THREADS": "1"}
    command = [str(mpirun), "-n", str(ranks), sys.executable, *script]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def child(name: str, seed: int, microbatches: int) -> None:
    import dtrain
    import launch
    from dtrain import data, optim
    from dtrain.nn import functional as F

    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    from train import Net, accuracy

    job = launch.Job(seed=seed, microbatches=microbatches, threads=1)
    parts = {"comm": job.comm, "microbatches": microbatches}
    train, test = data.FashionMNIST(train=True), data.FashionMNIST(train=False)
    loader = data.DataLoader(train, len(train) // STEPS, shuffle=True, **parts)
    model = dtrain.DistributedDataParallel(Net(), **parts, overlap=True)  # messages, within a host too
    make = hooks()[name]
    if make is not None:
        model.register_comm_hook(*make())
    optimizer = optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, loader.steps)
    sent, before = [], job.comm.traffic.bytes_sent
    for x, y in loader:
        F.cross_entropy(model(x), y).backward()
        if model.synchronized:
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            sent.append(job.comm.traffic.bytes_sent - before)
            before = job.comm.traffic.bytes_sent
    most = max(job.comm.all_gather_object(statistics.median_low(sent)))
    right = accuracy(model, data.DataLoader(test, 1000, **parts), job.comm)
    result = {
        "accuracy": float(right),
        "bytes_per_step": most,
        "ranks": job.size,
        "microbatches": microbatches,
        "steps": len(sent),
        "images": len(train),
    }
    job.print(json.dumps(result))


if __name__ == "__main__":
    main()
