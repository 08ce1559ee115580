"""How fast kernels are on the GPU, beside the card's own copies and products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from dtrain import optim
from dtrain.autograd import Tensor
from dtrain.backend.halves import bfloat16
from dtrain.backend.random import Purpose, stream

__all__ = ["ceilings", "kernel_bandwidths"]


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
    draw = partial(stream, 0, Purpose.GRAPH)
    for dtype in (np.dtype(np.float32), bfloat16):
        x = cupy.random.standard_normal((rows, columns), np.float32).astype(dtype)
        g = x[::-1].copy()
        w = cupy.ones(columns, dtype)
        labels = cupy.random.randint(0, columns, rows)
        _, kept = cuda.layer_norm(x, w, w, 1e-5)
        _, *logits_kept = cuda.cross_entropy(x, labels, None, 0.0)
        each = cupy.ones(rows, np.float32)
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
            "column_sums": (lambda x=x: cuda.column_sums(x), 1),
            "square_sum": (lambda x=x: cuda.square_sum(x), 1),
            "dropout_mask": (lambda s=x.shape, n=x.itemsize: cuda.dropout_mask(draw, s, 0.1), 0),
        }  # fmt: skip
        images = x.reshape(64, 32, 32, -1).transpose(0, 3, 1, 2)
        of_g, channels = g.reshape(64, 32, 32, -1).transpose(0, 3, 1, 2), images.shape[1]
        weight, steps = cupy.ones(channels, np.float32), ((1, 1), (1, 1), (1, 1))
        *_, kept = cuda.batch_norm(images, weight, weight, None, None, 1e-5)
        pooled, winner = cuda.max_pool(images, (32, 32), (3, 3), *steps)
        calls |= {
            "batch_norm": (lambda x=images, w=weight: cuda.batch_norm(x, w, w, None, None, 1e-5), 3),
            "batch_norm_grad": (
                lambda g=of_g, k=kept, w=weight: cuda.batch_norm_grad(g, k, w, True, (True, True, True)), 5
            ),
            "max_pool": (lambda x=images, s=steps: cuda.max_pool(x, (32, 32), (3, 3), *s), 2),
            "max_pool_grad": (
                lambda g=pooled, w=winner, s=steps: cuda.max_pool_grad(g, w, (32, 32), (3, 3), *s), 2
            ),
            "adaptive_avg_pool": (lambda x=images: cuda.adaptive_avg_pool(x, (1, 1)), 1),
        }  # fmt: skip
        for name, (run, passes) in calls.items():
            moved = passes * x.nbytes if passes else x.size  # a mask of bytes
            yield f"{name}, {dtype}", moved / _milliseconds(run) / 1e9
    flat = [cupy.random.standard_normal(1 << 26, np.float32) for _ in range(4)]
    optimizer = optim.AdamW([Tensor(flat[0])])
    options = {name: optimizer.defaults[name] for name in optimizer._options}

    def update(p: Any, g: Any, m: Any, v: Any) -> None:
        optimizer.update(p, g, {"exp_avg": m, "exp_avg_sq": v}, 3, **options)

    for a in flat[2:]:
        cupy.abs(a, out=a)
    yield "update of AdamW, float32", 7 * flat[0].nbytes / _milliseconds(lambda: cuda.each_element(update, *flat)) / 1e9
