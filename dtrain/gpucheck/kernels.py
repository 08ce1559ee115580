"""Every kernel of the CUDA backend on the GPU, against the reference in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np

from dtrain.backend import reference, xp_of
from dtrain.backend.halves import bfloat16, finfo, widened

__all__ = ["DTYPES", "all_cases", "attention_cases", "compare", "compile_all", "image_cases", "kernel_cases"]

DTYPES = (np.dtype(np.float32), np.dtype(np.float64), bfloat16, np.dtype(np.float16))


def kernel_cases(rows: int, columns: int, seed: int = 0) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """(name, function of the kernels and of named arrays, those arrays): float64 ones are given in the dtype tested."""
    rng = np.random.default_rng(seed)
    x, g, w, b = (rng.standard_normal(s) for s in ((rows, columns), (rows, columns), columns, columns))
    labels = rng.integers(0, columns, rows)
    yield "add", lambda k, x, g: (k.add(x, g), k.add(x.T, g.T)), {"x": x, "g": g}
    yield "relu", lambda k, x, g: (y := k.relu(x), k.relu_grad(g, y)), {"x": x, "g": g}
    yield "erf", lambda k, x: k.erf(x), {"x": x}

    def gelu(k: Any, x: Any, g: Any) -> Any:
        y, kept = k.gelu(x)
        return y, k.gelu_grad(g, kept)

    yield "gelu", gelu, {"x": x, "g": g}
    for axis in (0, 1):
        for name in ("softmax", "log_softmax"):

            def function(k: Any, x: Any, g: Any, name: str = name, axis: int = axis) -> Any:
                y = getattr(k, name)(x, axis)
                return y, getattr(k, f"{name}_grad")(g, y, axis)

            yield f"{name} over {axis}", function, {"x": x, "g": g}

    def cross_entropy(smoothing: float) -> Callable[..., Any]:
        def run(k: Any, x: Any, g: Any, labels: Any, weight: Any) -> Any:
            g, weight = widened(g), widened(weight)  # as losses have them
            loss, *kept = k.cross_entropy(x, labels, weight, smoothing)
            return loss, k.cross_entropy_grad(g, *kept, labels, weight, smoothing)

        return run

    each = np.abs(rng.standard_normal(rows))
    given = {"x": x, "g": g[:, 0].copy(), "labels": labels}
    yield "cross_entropy", lambda k, **a: cross_entropy(0.0)(k, weight=None, **a), given
    yield "cross_entropy, weighted and smooth", cross_entropy(0.1), {**given, "weight": each}

    def layer_norm(k: Any, x: Any, g: Any, w: Any = None, b: Any = None) -> Any:
        y, kept = k.layer_norm(x, w, b, 1e-5)
        return y, *k.layer_norm_grad(g, kept, w, (True, True, True))

    yield "layer_norm", layer_norm, {"x": x, "g": g, "w": w, "b": b}
    yield "layer_norm without weights", layer_norm, {"x": x, "g": g}

    def rms_norm(k: Any, x: Any, g: Any, w: Any = None) -> Any:
        y, kept = k.layer_norm(x, w, None, 1e-5, centred=False)
        return y, *k.layer_norm_grad(g, kept, w, (True, w is not None, False))[: 1 + (w is not None)]

    yield "rms_norm", rms_norm, {"x": x, "g": g, "w": w}
    yield "rms_norm without a weight", rms_norm, {"x": x, "g": g}

    def batch_norm(k: Any, x: Any, g: Any, w: Any = None, b: Any = None) -> Any:
        y, mean, var, kept = k.batch_norm(x, w, b, None, None, 1e-5)
        again = k.batch_norm(x, w, b, mean, var, 1e-3)
        grads = k.batch_norm_grad(g, kept, w, True, (True, True, True))
        grads += k.batch_norm_grad(g, again[3], w, False, (True, False, False))[:1]
        return y, mean, var, again[0], *k.batch_norm_stats(x), *k.batch_norm_grad_sums(g, kept), *grads

    if rows > 8:  # of few rows variances are small by chance, and what is divided by them has few right digits
        yield "batch_norm", batch_norm, {"x": x, "g": g, "w": w, "b": b}
        yield "batch_norm far from 0", batch_norm, {"x": x + 3, "g": g}
    index = rng.integers(0, max(1, rows // 2), rows)
    yield "embedding_grad", lambda k, g, index: k.embedding_grad(g, index, rows + 1), {"g": g, "index": index}
    yield "add_at", lambda k, g, index: k.add_at(g, index, rows + 1), {"g": g[:, 0].copy(), "index": index}
    yield "column_sums", lambda k, g: k.column_sums(g), {"g": g}
    few = min(columns, 256)  # of more, sums in another order differ by more
    m, t, narrow = rng.standard_normal((3, few, 20)), rng.standard_normal((1, 7, few)), x[:, :few].copy()
    given = {"x": narrow, "m": g[:64, :few].copy(), "b": g[:64, 0].copy()}
    yield "linear", lambda k, x, m, b: k.linear(x, m, b), given
    given = {"x": narrow, "m": m, "t": t}
    yield "matmul", lambda k, x, m, t: (k.matmul(x, m), k.matmul(m.swapaxes(1, 2), x.T), k.matmul(t[0], m)), given
    yield "square_sum", lambda k, x: k.square_sum(x), {"x": x}


def image_cases(seed: int = 0) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """As `kernel_cases`, of images: windows that overlap, leave gaps, reach over the border, one and two dimensions."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape)

    geometries = [
        # images, channels in and out, groups; size, window, stride, padding, dilation
        (2, 8, 16, 1, (7, 6), (3, 3), (1, 1), (1, 1), (1, 1)),
        (2, 3, 5, 1, (8, 8), (3, 2), (2, 3), (1, 0), (2, 1)),
        (3, 16, 8, 1, (5, 5), (1, 1), (1, 1), (0, 0), (1, 1)),
        (2, 8, 8, 1, (5, 5), (1, 1), (2, 2), (0, 0), (1, 1)),
        (2, 16, 32, 2, (6, 5), (2, 3), (1, 2), (0, 1), (1, 1)),
        (2, 16, 16, 16, (7, 7), (3, 3), (2, 2), (1, 1), (1, 1)),
        (2, 5, 5, 5, (7, 7), (3, 3), (1, 1), (1, 1), (2, 2)),
        (2, 4, 6, 1, (9,), (4,), (2,), (3,), (1,)),
        (0, 8, 8, 1, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1)),
    ]
    for n, i, o, groups, size, window, *steps in geometries:
        stride, padding, dilation = steps
        out = tuple(
            (s + 2 * p - d * (k - 1) - 1) // t + 1
            for s, p, d, k, t in zip(size, padding, dilation, window, stride, strict=True)
        )
        where = f"of {i} -> {o} channels in {groups} groups, {size} by {window}, {stride}, {padding}, {dilation}"

        def convolution(k: Any, x: Any, w: Any, b: Any, g: Any, at: Any = (out, size, window, groups, steps)) -> Any:
            out, size, window, groups, steps = at
            y = k.convolution(x, w, b, out, *steps, groups)
            gx = k.convolution_data_grad(g, w, size, *steps, groups)
            return y, gx, k.convolution_weight_grad(g, x, window, *steps, groups), k.channel_sums(g)

        arrays = {"x": draw(n, i, *size), "w": draw(o, i // groups, *window), "b": draw(o), "g": draw(n, o, *out)}
        yield f"convolution {where}", convolution, arrays

        def pooling(k: Any, x: Any, g: Any, at: Any = (out, size, window, steps)) -> Any:
            out, size, window, (stride, padding, dilation) = at
            count = np.arange(1.0, 1 + np.prod(out)).reshape(out)
            y, winner = k.max_pool(x, out, window, stride, padding, dilation)
            results = [y, k.max_pool_grad(g, winner, size, window, stride, padding, dilation)]
            if set(dilation) == {1}:
                results.append(k.avg_pool(x, out, window, stride, padding, count))
                results.append(k.avg_pool_grad(g, size, window, stride, padding, count))
            return *results, k.adaptive_avg_pool(x, out), k.adaptive_avg_pool_grad(g, size)

        # Numbers that two-byte floats hold, so that the same element wins.
        x = rng.permutation(n * i * int(np.prod(size))).reshape(n, i, *size) % 101 / 8
        yield f"pooling {where}", pooling, {"x": x, "g": draw(n, i, *out)}


def attention_cases(
    columns: Sequence[int] = (16, 80, 128), seed: int = 0
) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """As `kernel_cases`, of attention: few and many queries and keys, whole tiles and parts of them."""
    rng = np.random.default_rng(seed)
    for d in columns:
        for queries, keys in ((1, 1), (5, 70), (130, 65), (64, 64)):
            for causal, has_bias, dropout in (
                (False, 0, 0.0),
                (True, 0, 0.0),
                (False, 1, 0.0),
                (True, 0, 0.3),
                (False, 1, 0.3),
            ):
                # Heads beside each other in a row, as a layer's projections give them.
                own, others = ((2, n, 2, d) for n in (queries, keys))
                shapes = {"query": own, "key": others, "value": others, "g": own}
                given: Any = {name: rng.standard_normal(shape) / 2 for name, shape in shapes.items()}
                if has_bias:  # of keys alone; the first sequence has none to look at
                    given["bias"] = rng.standard_normal((2, 1, 1, keys))
                    given["bias"][0] = -np.inf
                if dropout:
                    given["kept"] = rng.random((2, 2, queries, keys)) >= dropout

                def run(
                    k: Any, g: Any, bias: Any = None, kept: Any = None, at: Any = (causal, d, dropout), **given: Any
                ) -> Any:
                    causal, d, dropout = at
                    heads = [x.swapaxes(1, 2) for x in given.values()]
                    options = {"causal": causal, "scale": d**-0.5, "kept": kept, "kept_scale": 1 / (1 - dropout)}
                    places = (*heads[0].shape[:3], heads[1].shape[2])
                    options["bias"] = None if bias is None else xp_of(bias).broadcast_to(bias, places)
                    y, noted = k.attention(*heads, **options)
                    made = k.attention_grad(g.swapaxes(1, 2), *heads, y, noted, **options, needs_bias=False)
                    return y, *made[:3]

                what = f"causal={causal}{', biased' * has_bias}, dropout={dropout}"
                yield f"attention of {queries} to {keys} with {d} columns, {what}", run, given


def all_cases() -> Iterator[tuple[Any, str, Callable[..., Any], dict[str, Any]]]:
    """Every case with every dtype: (dtype, name, function, arrays)."""
    cases = [*kernel_cases(33, 1000), *kernel_cases(7, 4099), *image_cases(), *attention_cases()]
    return ((dtype, *case) for dtype in DTYPES for case in cases)


def compile_all() -> None:
    """Run all cases in as many processes as there are processors: the kernels then lie compiled in CuPy's cache."""
    n = min(16, os.cpu_count() or 1)
    command = [sys.executable, "-c", f"from {__name__} import _compile; _compile()"]
    shares = [subprocess.Popen([*command, str(i), str(n)], stderr=subprocess.DEVNULL) for i in range(n)]
    for share in shares:
        share.wait()  # what fails in one fails again where it is reported


def _compile() -> None:
    import cupy

    first, step = map(int, sys.argv[1:])
    for dtype, _, run, given in islice(all_cases(), first, None, step):
        with suppress(Exception):
            compare(dtype, run, given, cupy.asarray)


def compare(dtype: Any, run: Callable[..., Any], given: dict[str, Any], device: Callable[[Any], Any]) -> float:
    """The largest error of the device's results, in units of what rounding to dtype allows (1 is the limit).

    Numbers are rounded to dtype before; the reference computes with them in float64.
    """
    from dtrain.backend import cuda, to_numpy

    given = {name: a.astype(dtype) if a.dtype.kind == "f" else a for name, a in given.items()}
    wide = {name: a.astype(np.float64) if a.dtype == dtype else a for name, a in given.items()}
    expected = run(reference, **wide)
    got = run(cuda, **{name: device(a) for name, a in given.items()})
    worst = 0.0
    pairs = zip(*(r if isinstance(r, tuple) else (r,) for r in (got, expected)), strict=True)
    for one, other in pairs:
        one = to_numpy(one).astype(np.float64)
        # Sums over many elements, and what cancels: relative to the largest number.
        limit = 8 * float(finfo(dtype).eps) * (1 + np.abs(other).max(initial=0.0) + np.abs(other))
        if not (np.isnan(one) == np.isnan(other)).all():
            return float("inf")
        worst = max(worst, float(np.nan_to_num(np.abs(one - other) / limit).max(initial=0.0)))
    return worst
