"""How fast kernels and steps are on the GPU, beside the card's own copies and products, and PyTorch's steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

import dtrain
from dtrain import nn, optim
from dtrain.backend.halves import bfloat16
from dtrain.nn import functional

__all__ = ["ceilings", "kernel_bandwidths", "steps_per_second"]


def _milliseconds(run: Callable[[], Any], repeats: int = 20) -> float:
    """The median time of a call on the current stream, by events, after three calls to warm up."""
    import cupy

    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(cupy.cuda.get_elapsed_time(start, end))
    return float(np.median(times))


def ceilings() -> dict[str, float]:
    """The bytes/s of a copy on the device (read and written), and the FLOP/s of 8192³ products."""
    import cupy

    source = cupy.ones(1 << 28, np.float32)
    target = cupy.empty_like(source)
    found = {"copy, TB/s": 2 * source.nbytes / _milliseconds(lambda: cupy.copyto(target, source)) / 1e9}
    n = 8192
    for dtype in (np.dtype(np.float32), bfloat16):
        a, b = (cupy.random.standard_normal((n, n), np.float32).astype(dtype) for _ in range(2))
        found[f"product of {dtype}, TFLOP/s"] = 2 * n**3 / _milliseconds(partial(cupy.matmul, a, b), 5) / 1e9
    return found


def kernel_bandwidths(rows: int = 16384, columns: int = 4096) -> Iterator[tuple[str, float]]:
    """TB/s of kernels that move memory: each input read once and each output written once, over the time."""
    import cupy

    from dtrain.backend import cuda as kernels

    cuda: Any = kernels  # of any module with these functions
    for dtype in (np.dtype(np.float32), bfloat16):
        x = cupy.random.standard_normal((rows, columns), np.float32).astype(dtype)
        g = x[::-1].copy()
        w = cupy.ones(columns, dtype)
        labels = cupy.random.randint(0, columns, rows)
        _, kept = cuda.layer_norm(x, w, w, 1e-5)
        _, *logits_kept = cuda.cross_entropy(x, labels, None, 0.0)
        each = cupy.ones(rows, dtype)
        calls: dict[str, tuple[Any, int]] = {
            "relu": (lambda x=x: cuda.relu(x), 2),
            "gelu": (lambda x=x: cuda.gelu(x), 2),
            "gelu_grad": (lambda g=g, x=x: cuda.gelu_grad(g, x), 3),
            "softmax": (lambda x=x: cuda.softmax(x, 1), 2),
            "cross_entropy": (lambda x=x, t=labels: cuda.cross_entropy(x, t, None, 0.0), 1),
            "cross_entropy_grad": (
                lambda e=each, k=logits_kept, t=labels: cuda.cross_entropy_grad(e, *k, t, None, 0.0), 2
            ),
            "layer_norm": (lambda x=x, w=w: cuda.layer_norm(x, w, w, 1e-5), 2),
            "layer_norm_grad, of x": (
                lambda g=g, k=kept, w=w: cuda.layer_norm_grad(g, k, w, (True, False, False)), 3
            ),
            "layer_norm_grad, of the weights": (
                lambda g=g, k=kept, w=w: cuda.layer_norm_grad(g, k, w, (False, True, True)), 2
            ),
        }  # fmt: skip
        for name, (run, passes) in calls.items():
            yield f"{name}, {dtype}", passes * x.nbytes / _milliseconds(run) / 1e9


def _mlp(module: Any) -> Any:
    first, second, last = module.Linear(784, 1024), module.Linear(1024, 1024), module.Linear(1024, 10)
    return module.Sequential(first, module.ReLU(), second, module.ReLU(), last)


def _resnet(library: str) -> Any:
    return import_module("torchvision.models" if library == "torch" else "dtrain.models").resnet18(num_classes=10)


_WORKLOADS: dict[str, tuple[tuple[int, ...], Callable[[str, Any], Any]]] = {
    "mlp": ((256, 784), lambda library, module: _mlp(module)),
    "resnet18": ((256, 3, 32, 32), lambda library, module: _resnet(library)),
}


def steps_per_second(name: str, library: str, seconds: float = 4.0) -> float:
    """Of training steps (SGD with momentum, float32) on batches that lie on the GPU. library: "dtrain" or "torch"."""
    shape, make = _WORKLOADS[name]
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(shape).astype(np.float32), rng.integers(0, 10, shape[0])
    if library == "dtrain":
        import cupy

        model = make(library, nn).to("cuda")
        optimizer: Any = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        inputs: Any = dtrain.tensor(x, device="cuda"), dtrain.tensor(y, device="cuda")
        loss_of: Any = functional.cross_entropy
        wait = cupy.cuda.runtime.deviceSynchronize
    else:
        import torch

        model = make(library, torch.nn).cuda()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        inputs = torch.from_numpy(x).cuda(), torch.from_numpy(y).cuda()
        loss_of, wait = torch.nn.functional.cross_entropy, torch.cuda.synchronize

    def step() -> None:
        loss_of(model(inputs[0]), inputs[1]).backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(5):
        step()
    wait()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(5):
            step()
        wait()
        done += 5
    return done / (time.perf_counter() - start)
