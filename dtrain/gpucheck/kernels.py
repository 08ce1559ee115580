"""Every kernel of the CUDA backend on the GPU, against the reference in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dtrain.backend import reference
from dtrain.backend.halves import bfloat16, finfo

__all__ = ["DTYPES", "compare", "kernel_cases"]

DTYPES = (np.dtype(np.float32), np.dtype(np.float64), bfloat16, np.dtype(np.float16))


def kernel_cases(rows: int, columns: int, seed: int = 0) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """(name, function of the kernels and of named arrays, those arrays): float64 ones are given in the dtype tested."""
    rng = np.random.default_rng(seed)
    x, g, w, b = (rng.standard_normal(s) for s in ((rows, columns), (rows, columns), columns, columns))
    labels = rng.integers(0, columns, rows)
    yield "relu", lambda k, x, g: (y := k.relu(x), k.relu_grad(g, y)), {"x": x, "g": g}
    yield "erf", lambda k, x: k.erf(x), {"x": x}

    def gelu(k: Any, x: Any, g: Any) -> Any:
        y, kept = k.gelu(x)
        return y, k.gelu_grad(g, kept)

    yield "gelu", gelu, {"x": x, "g": g}
    for axis in (0, 1):
        yield f"softmax over {axis}", lambda k, x, axis=axis: k.softmax(x, axis), {"x": x}
        yield f"log_softmax over {axis}", lambda k, x, axis=axis: k.log_softmax(x, axis), {"x": x}

    def cross_entropy(smoothing: float) -> Callable[..., Any]:
        def run(k: Any, x: Any, g: Any, labels: Any, weight: Any) -> Any:
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
    index = rng.integers(0, max(1, rows // 2), rows)
    yield "embedding_grad", lambda k, g, index: k.embedding_grad(g, index, rows + 1), {"g": g, "index": index}
    yield "add_at", lambda k, g, index: k.add_at(g, index, rows + 1), {"g": g[:, 0].copy(), "index": index}
    yield "column_sums", lambda k, g: k.column_sums(g), {"g": g}


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
