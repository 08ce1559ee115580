"""Time of one training step, dtrain beside PyTorch's best, in one run on one machine.

    python benchmarks/step_time.py [--rounds 5] [--json FILE] [workload ...]

A step is zero_grad, forward, cross-entropy, backward and the optimizer's step, float32, with one thread. dtrain runs as
it is, and captured (`job.capture`), PyTorch eagerly, with images channels last, and compiled. All are processes that
live side by side and take turns, so what changes on the machine changes for all of them; the table shows the medians of
the rounds, and

    ratio     dtrain's best time over PyTorch's best: below 1 dtrain is faster
    GFLOP/s   of the matrix products and convolutions of a step (as PyTorch counts them) in dtrain's best time
    of GEMM   that over what a product of two matrices of 1024 x 1024 reaches here, measured between the rounds
    MiB       what a process takes at most beyond what it had before it made its model, dtrain's and PyTorch's (eager)

The last line is what an op costs in Python: a sum of two tensors of one element, recorded, and its way back.
Needs the extra `torch`, and a C++ compiler for PyTorch's compiled mode (`--modes` leaves it out).
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from jobs import MODES, OURS, Job, time_together
from machine import machine, write_results
from threadpoolctl import threadpool_limits
from workloads import WORKLOADS, Workload

CHAIN = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", choices=[[], *WORKLOADS], help="default: all")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES), help="of PyTorch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    print(f"{machine()}; one thread; median of {options.rounds} rounds, milliseconds per step")
    names = f"{'dtrain':>9} {'captured':>9}" + "".join(f"{MODES[mode]:>14}" for mode in options.modes)
    print(f"{'workload':9} {names} {'ratio':>6} {'GFLOP/s':>8} {'of GEMM':>8} {'MiB':>6} {'PyTorch':>8}")
    rows = []
    for name in options.workloads or WORKLOADS:
        row = measure(name, options.modes, options.rounds)
        rows.append(row)
        found = row["torch_ms"]
        times = f"{row['dtrain_ms']:9.3f} {row['captured_ms']:9.3f}"
        times += "".join(f"{found[mode]:14.3f}" if mode in found else f"{'':14}" for mode in options.modes)
        print(
            f"{name:9} {times} {row['ratio']:6.2f} {row['gflops']:8.1f} {row['of_gemm']:8.0%} "
            f"{row['dtrain_peak_mib']:6.0f} {row['torch_peak_mib']:8.0f}",
            flush=True,
        )
    cost = op_costs()
    print("Python's cost of an op: " + ", ".join(f"{name} {value:.2f} µs" for name, value in cost.items()))
    if options.json:
        write_results(options.json, [*rows, {"op_cost_us": cost}])


def measure(name: str, modes: list[str], rounds: int) -> dict[str, Any]:
    """A row of the table."""
    workload = WORKLOADS[name]
    images = len(workload.shape) == 4
    libraries = [*OURS, *(mode for mode in modes if images or mode != "torch-channels-last")]
    times: dict[str, list[float]] = {library: [] for library in libraries}
    rates = []
    with contextlib.ExitStack() as stack:
        jobs = {library: stack.enter_context(Job(library, name)) for library in libraries}
        for job in jobs.values():
            time_together([job], 1)  # all are ready, and what is compiled is
        for _ in range(rounds):
            rates.append(gemm_rate())
            for library, job in jobs.items():
                times[library].append(time_together([job], workload.steps))
        peaks = {library: job.peak for library, job in jobs.items()}
    found = {library: statistics.median(ms) for library, ms in times.items()}
    eager, captured = (found.pop(library) for library in OURS)
    ours = min(eager, captured)
    gflops = flops(workload) / ours / 1e6
    return {
        "workload": name, "dtrain_ms": eager, "captured_ms": captured, "torch_ms": found,
        "ratio": ours / min(found.values()), "gflops": gflops,
        "gemm_gflops": statistics.median(rates), "of_gemm": gflops / statistics.median(rates),
        "dtrain_peak_mib": peaks["dtrain"], "torch_peak_mib": peaks["torch" if "torch" in peaks else modes[0]],
    }  # fmt: skip


def gemm_rate(n: int = 1024) -> float:
    """GFLOP/s of NumPy's product of two matrices n x n of float32 on one thread."""
    a = np.random.default_rng(0).standard_normal((n, n), np.float32)
    with threadpool_limits(1):
        return 2 * n**3 / 1e9 / best_of(lambda: a @ a, 10)


def best_of(call: Callable[[], Any], n: int) -> float:
    """The seconds of the median of n calls."""
    times = []
    for _ in range(n):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def flops(workload: Workload) -> int:
    """Floating-point operations of a step's matrix products and convolutions, counted by PyTorch."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    x, y = map(torch.from_numpy, workload.batch())
    # Of attention's and oneDNN's own kernels it would count nothing.
    plain = torch.backends.mkldnn.flags(enabled=False)
    warnings.filterwarnings("ignore", "TF32 acceleration")  # of GPUs that are not here
    with plain, sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        workload.loss(torch, workload.make(torch.nn), x, y).backward()
    return int(counter.get_total_flops())


def op_costs() -> dict[str, float]:
    """Microseconds of an op forward and backward: of a chain of sums of two tensors of one element."""
    import torch

    import dtrain

    costs = {}
    for label, library in (("dtrain", dtrain), ("PyTorch", torch)):
        x = library.ones(1, requires_grad=True)

        def forward(x: Any = x) -> Any:
            y = x
            for _ in range(CHAIN):
                y = y + x
            return y

        def both(forward: Any = forward) -> None:
            forward().backward()

        there, all_of_it = best_of(forward, 200), best_of(both, 200)
        costs[f"{label} forward"] = there / CHAIN * 1e6
        costs[f"{label} backward"] = (all_of_it - there) / CHAIN * 1e6
    return costs


if __name__ == "__main__":
    main()
