"""oneDNN's kernels against the reference: values, fallbacks, bytes from run to run, threads."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtrain.backend import backend_of, cpu, reference
from dtrain.backend.reference.layout import channels_first

needs_onednn = pytest.mark.skipif(not cpu.available(), reason="no oneDNN: pip install 'dtrain[cpu]'")

#: (N, I, O, size, kernel, stride, padding, dilation, groups)
PROBLEMS = [
    (2, 16, 32, (9, 7), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    (3, 3, 5, (8, 8), (5, 3), (2, 1), (2, 0), (1, 1), 1),
    (1, 8, 8, (11, 6), (3, 2), (3, 2), (0, 1), (2, 1), 2),
    (4, 6, 6, (7, 7), (3, 3), (1, 1), (1, 1), (1, 1), 6),
    (2, 12, 4, (5, 5), (1, 1), (2, 2), (0, 0), (1, 1), 1),
    (2, 5, 7, (13,), (4,), (2,), (3,), (1,), 1),
    (1, 4, 6, (5, 4, 6), (2, 3, 3), (1, 2, 1), (1, 0, 1), (1, 1, 1), 2),
]


def outs(size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> tuple[int, ...]:
    steps = zip(size, kernel, stride, padding, dilation, strict=True)
    return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in steps)


def results(kernels: Any, problem: Any, dtype: Any, last: bool = True) -> list[np.ndarray]:
    """Forward, data gradient and weight gradient. last: of images that are channels last in memory."""
    n, i, o, size, kernel, stride, padding, dilation, groups = problem
    out = outs(size, kernel, stride, padding, dilation)
    rng = np.random.default_rng(0)
    x, g = (rng.standard_normal((n, *s, c)).astype(dtype) for s, c in ((size, i), (out, o)))
    x, g = (channels_first(a) if last else np.ascontiguousarray(channels_first(a)) for a in (x, g))
    w, b = (rng.standard_normal(s).astype(dtype) for s in ((o, i // groups, *kernel), (o,)))
    steps = (stride, padding, dilation, groups)
    return [
        kernels.convolution(x, w, b, out, *steps),
        kernels.convolution(x, w, None, out, *steps),
        kernels.convolution_data_grad(g, w, size, *steps),
        kernels.convolution_weight_grad(g, x, kernel, *steps),
    ]


@needs_onednn
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("last", [True, False])
def test_convolutions_are_the_references(problem, last):
    for ours, wanted in zip(
        results(cpu, problem, np.float32, last), results(reference, problem, np.float32), strict=True
    ):
        assert ours.shape == wanted.shape and ours.dtype == wanted.dtype
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)


@needs_onednn
def test_it_is_onednn_that_computes():
    assert backend_of(np.ones(1)) is cpu and cpu.version().startswith("3.")
    different = [
        a.tobytes() != b.tobytes()
        for problem in PROBLEMS
        for a, b in zip(results(cpu, problem, np.float32), results(reference, problem, np.float32), strict=True)
    ]
    assert any(different)


@pytest.mark.parametrize("problem", PROBLEMS[:3], ids=str)
def test_other_dtypes_and_empty_batches_are_the_references_by_bytes(problem):
    for dtype, changed in ((np.float64, problem), (np.float32, (0, *problem[1:]))):
        for ours, wanted in zip(results(cpu, changed, dtype), results(reference, changed, dtype), strict=True):
            assert ours.tobytes() == wanted.tobytes() and ours.shape == wanted.shape


def digest() -> str:
    """Of all results: run after run, process after process, and in another thread, the same."""
    found = hashlib.sha256()
    for problem in PROBLEMS:
        for array in results(cpu, problem, np.float32):
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


@needs_onednn
def test_runs_processes_and_threads_give_the_same_bytes():
    script = "from tests.backend.test_cpu import digest; print(digest())"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    runs = [
        subprocess.run([sys.executable, "-c", script], env=environment, cwd=root, capture_output=True, text=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout and len(runs[0].stdout.strip()) == 64, runs[0].stderr
    here = [digest()]
    thread = threading.Thread(target=lambda: here.append(digest()))
    thread.start()
    thread.join()
    assert here[0] == here[1] == digest()


def test_without_the_library_all_is_the_reference():
    script = (
        "import numpy as np; from dtrain.backend import backend_of, reference as r; assert backend_of(np.ones(1)) is r"
    )
    environment = {**os.environ, "DTRAIN_ONEDNN": "0"}
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
