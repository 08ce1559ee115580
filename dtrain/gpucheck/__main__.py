"""See the package's docstring."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import dtrain
from dtrain.backend.cuda import cublaslt
from dtrain.backend.gpus import require
from dtrain.gpucheck import kernels, ranks, speed, steps, training

__all__ = ["Report", "main"]


class Report:
    """What was found, on the screen and in a file, as it comes."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.failed = path, 0
        self.found: dict[str, dict[str, Any]] = {}

    def say(self, section: str, name: str, value: Any, right: bool = True) -> None:
        """Note a value; right: whether it is as it should be."""
        self.failed += not right
        shown = f"{value:.4g}" if isinstance(value, float) else value
        print(f"{section}: {name}: {shown}{'' if right else '   WRONG'}", flush=True)
        self.found.setdefault(section, {})[name] = value
        if self.path is not None:
            self.path.write_text(json.dumps(self.found, indent=1) + "\n")

    def attempt(self, section: str, name: str, run: Callable[[], None]) -> None:
        """Run a check; one that raises is noted, and the others go on."""
        try:
            run()
        except Exception as error:
            self.say(section, name, f"{type(error).__name__}: {error}"[:400], right=False)


def _versions(report: Report, cupy: Any) -> None:
    device = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
    for name, value in {
        "date": time.strftime("%Y-%m-%d"), "device": device["name"].decode(), "dtrain": dtrain.__version__,
        "python": platform.python_version(), "numpy": np.__version__, "cupy": cupy.__version__,
        "CUDA runtime": cupy.cuda.runtime.runtimeGetVersion(), "driver": cupy.cuda.runtime.driverGetVersion(),
    }.items():  # fmt: skip
        report.say("versions", name, value)
    report.say("versions", "products", cublaslt.why_not() or "cuBLASLt", right=cublaslt.why_not() is None)


def _kernels(report: Report, cupy: Any) -> None:
    kernels.compile_all()
    for dtype, name, run, given in kernels.all_cases():

        def check(name: str = name, run: Any = run, given: Any = given, dtype: Any = dtype) -> None:
            error = kernels.compare(dtype, run, given, cupy.asarray)
            report.say("kernels", f"{name}, {dtype}, {given[next(iter(given))].shape}", error, error <= 1)

        report.attempt("kernels", f"{name}, {dtype}", check)


def _training(report: Report) -> None:
    for name in training.MODELS:

        def check(name: str = name) -> None:
            losses, parameters, _ = training.train(name, "cpu")
            of_gpu, on_gpu, _ = training.train(name, "cuda")
            _, again, _ = training.train(name, "cuda")
            same = all((a == b).all() for a, b in zip(on_gpu, again, strict=True))
            report.say("training", f"{name}: two runs give the same bits", same, same)
            error = max(float(np.abs(a - b).max()) for a, b in zip(parameters, on_gpu, strict=True))
            report.say("training", f"{name}: largest difference to the CPU's parameters", error, error < 1e-4)
            eager, graph = (training.train(name, "cuda", 6, captured=c) for c in (False, True))
            same = eager[0] == graph[0] and all((a == b).all() for a, b in zip(eager[1], graph[1], strict=True))
            report.say("training", f"{name}: a CUDA graph has the bits of the step", same, same)
            error = max(abs(a - b) for a, b in zip(losses, of_gpu, strict=True))
            report.say("training", f"{name}: largest difference to the CPU's losses", error, error < 1e-4)
            for mixed, limit in ((False, 1e-4), (True, 0.1)):
                here, there = (training.train(name, device, 1, mixed)[2] for device in ("cpu", "cuda"))
                # Relative to the largest element of the parameter's gradient.
                error = max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(here, there, strict=True))
                text = f"{name}: largest relative difference of gradients{', in bfloat16' if mixed else ''}"
                report.say("training", text, error, error < limit)

        report.attempt("training", name, check)


def _ranks(report: Report) -> None:
    def check() -> None:
        one, two = ranks.of_ranks(1), ranks.of_ranks(2)
        for found in (one, two):
            report.say("ranks", f"by way of {found['way']}, steps/s", found["steps_per_second"])
        same = one["sha256"] == two["sha256"]
        report.say("ranks", "two ranks have the bits of one", same, same)

    report.attempt("ranks", "jobs of one and two ranks", check)


def _speed(report: Report) -> None:
    def limits() -> None:
        for name, value in speed.ceilings().items():
            report.say("speed", name, value)

    def bandwidths() -> None:
        for name, value in speed.kernel_bandwidths():
            report.say("speed", f"{name}, TB/s", value)

    report.attempt("speed", "ceilings", limits)
    report.attempt("speed", "bandwidths", bandwidths)
    for name, work in steps.WORKLOADS.items():
        for library in ("dtrain", "graph", "torch", "compiled"):

            def run(name: str = name, library: str = library, flops: float = work.flops) -> None:
                rate = steps.steps_per_second(name, library)
                report.say("speed", f"{name}, {library}, steps/s", rate)
                report.say("speed", f"{name}, {library}, TFLOP/s", rate * flops / 1e12)

            report.attempt("speed", f"{name}, {library}", run)


def main() -> int:
    """Check, and return how many checks went wrong."""
    parser = argparse.ArgumentParser(
        "python -m dtrain.gpucheck", description="Checks and measures the CUDA backend on the GPU of this machine."
    )
    parser.add_argument("--json", type=Path, help="write all results into this file, as they come")
    options = parser.parse_args()
    try:
        cupy = require()
    except ValueError as error:
        sys.exit(str(error))
    report = Report(options.json)
    _versions(report, cupy)
    _kernels(report, cupy)
    _training(report)
    _ranks(report)
    _speed(report)
    report.say("summary", "checks that went wrong", report.failed)
    return min(report.failed, 1)


if __name__ == "__main__":
    sys.exit(main())
