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

from dtrain.autograd import Tensor
from dtrain.backend import backend_of, cpu, reference
from dtrain.backend.cpu import conv, processor, recurrent
from dtrain.backend.halves import bfloat16
from dtrain.backend.reference.layout import channels_first
from dtrain.nn import functional as F

needs_onednn = pytest.mark.skipif(not cpu.available(), reason="no oneDNN: pip install onednn-cpu-gomp")

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


def near(ours: Any, wanted: Any) -> None:
    """Arrays, or lists of them, agree as far as their dtype has digits: one rounding to bfloat16 may go another way."""
    if isinstance(wanted, (list, tuple)):
        for a, b in zip(ours, wanted, strict=True):
            near(a, b)
        return
    assert ours.shape == wanted.shape and ours.dtype == wanted.dtype
    digits = 1e-2 if wanted.itemsize == 2 else 1e-4
    a, b = ours.astype(np.float64), wanted.astype(np.float64)
    np.testing.assert_allclose(a, b, rtol=digits, atol=digits * np.abs(b).max(initial=1e-30))


@pytest.fixture(params=["of bfloat16", "by way of float32"])
def fast(request, monkeypatch):
    """Whether the processor counts as one that is faster in bfloat16."""
    monkeypatch.setattr(processor, "is_bfloat16_fast", lambda: request.param == "of bfloat16")
    return request.param == "of bfloat16"


@needs_onednn
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_convolutions_in_bfloat16(problem, fast):
    near(results(cpu, problem, bfloat16), results(reference, problem, bfloat16))


@needs_onednn
@pytest.mark.parametrize(("i", "k", "j"), [(5, 7, 3), (1, 64, 1), (33, 1, 17), (128, 100, 96)])
@pytest.mark.parametrize("lead", [(), (3,), (2, 4)])
def test_products_in_bfloat16(i, k, j, lead, fast):
    """Of arrays that lie in rows, in columns, and with gaps; with a bias. Those in float32 are rounded once."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((*lead, *s)).astype(bfloat16) for s in ((i, k), (k, j)))
    turned = [np.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2) for a in (x, y)]
    gaps = [np.repeat(a, 2, -1)[..., ::2] for a in (x, y)]
    wanted = reference.matmul(x, y)
    for a in (x, turned[0], gaps[0]):
        for b in (y, turned[1], gaps[1]):
            near(cpu.matmul(a, b), wanted)
    if not lead:
        bias = rng.standard_normal(j).astype(bfloat16)
        near(cpu.linear(x, y.T, bias), reference.linear(x, y.T, bias))
        near(cpu.linear(x, y.T, None), wanted)
    if not fast:
        wide = cpu.matmul(x.astype(np.float32), y.astype(np.float32))
        assert cpu.matmul(x, y).tobytes() == wide.astype(bfloat16).tobytes()


@needs_onednn
@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
@pytest.mark.parametrize("shape", [(8, 6, 9, 7), (300, 6, 5), (1, 33, 4), (40, 16)], ids=str)
def test_normalisation_and_activation(shape, dtype):
    rng = np.random.default_rng(0)
    x, g = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    w, b = rng.standard_normal((2, shape[1])).astype(np.float32)
    found: list[list[Any]] = []
    for kernels in (cpu, reference):
        y, mean, var, kept = kernels.batch_norm(x, w, b, None, None, 1e-5)
        found.append([y, mean, var, *kernels.batch_norm_grad(g, kept, w, True, (True, True, True))])
        assert kernels.batch_norm_grad(g, kept, w, True, (False, False, True))[:2] == [None, None]
        rows, of_rows = (np.moveaxis(a, 1, -1).reshape(-1, shape[1]) for a in (x, g))
        y, kept = kernels.layer_norm(rows, w, b, 1e-5)
        found[-1] += [y, *kernels.layer_norm_grad(of_rows, kept, w, (True, True, True))]
        y, kept = kernels.layer_norm(rows, None, None, 1e-5)
        found[-1] += [y, kernels.layer_norm_grad(of_rows, kept, None, (True, False, False))[0]]
        y, mean, var, kept = kernels.batch_norm(x, None, None, None, None, 1e-5)
        found[-1] += [y, mean, var, kernels.batch_norm_grad(g, kept, None, True, (True, False, False))[0]]
        for last in (x, np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)):
            y, kept = kernels.gelu(np.tile(last, (20,) + (1,) * (last.ndim - 1)))
            wide = np.tile(g, (20,) + (1,) * (g.ndim - 1))
            positive = kernels.relu(y)
            found[-1] += [y, kernels.gelu_grad(wide, kept), positive, kernels.relu_grad(wide, positive)]
    near(*found)


@needs_onednn
@pytest.mark.parametrize(
    "dtypes", [(np.float64, np.float32), (np.float32, np.float64), (bfloat16, np.float32)], ids=str
)
def test_weights_of_other_dtypes_are_the_references(dtypes):
    """oneDNN reads float32 there, whatever lies in the memory."""
    x = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)
    w, b = (np.linspace(1, 2, 16).astype(dtype) for dtype in dtypes)
    for images in (x, x.reshape(4, 16, 10)):
        near(cpu.batch_norm(images, w, b, None, None, 1e-5)[0], reference.batch_norm(images, w, b, None, None, 1e-5)[0])
    near(cpu.layer_norm(x, w, b, 1e-5)[0], reference.layer_norm(x, w, b, 1e-5)[0])


@needs_onednn
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("kind", "gates", "states"), [("rnn", 1, 1), ("relu", 1, 1), ("gru", 3, 1), ("lstm", 4, 2)])
@pytest.mark.parametrize("sizes", [[40, 40, 30, 1], [40, 40, 40], [1]], ids=str)
def test_recurrent_layers(kind, gates, states, reverse, sizes):
    """Of sizes at which some products are large enough for oneDNN; sequences of one length are its primitives'."""
    rng, inputs, size = np.random.default_rng(0), 50, 96

    def array(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.2).astype(np.float32)

    x, w_ih, w_hh, b = (
        array(sum(sizes), inputs),
        array(gates * size, inputs),
        array(gates * size, size),
        array(gates * size),
    )
    first = [array(sizes[0], size) for _ in range(states)]
    g_y, g = array(sum(sizes), size), [array(sizes[0], size) for _ in range(states)]
    options: dict[str, Any] = {"sizes": sizes, "reverse": reverse}
    if gates == 1:
        options, kind = {**options, "relu": kind == "relu"}, "rnn"
    projection = [None] if kind == "lstm" else []
    found: dict[Any, Any] = {cpu: [], reference: []}
    for kernels in found:
        for biases, gs in (((b, b), (g_y, *g)), ((None, None), (g_y, *[None] * states)), ((b, None), (None, *g))):
            y, *last, saved = getattr(kernels, kind)(x, *first, w_ih, w_hh, *biases, *projection, **options)
            kept = [y, saved] if kind == "rnn" else [saved]
            gradients = getattr(kernels, f"{kind}_grad")(
                *gs, x, *kept, w_ih, w_hh, *projection, **options, needs_input=biases[0] is None or biases[1] is None
            )
            found[kernels] += [y, *last, *(d for d in gradients if d is not None)]
        assert kernels is reference or isinstance(saved, recurrent.Saved) == (len(set(sizes)) == 1)
    near(*found.values())


@needs_onednn
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, bfloat16])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("lengths", [(5, 9), (130, 70), (300, 300), (2, 3), (3, 0)], ids=str)
def test_attention(lengths, causal, dtype):
    """Of heads that are views of one product, as a model has them; with a bias and with dropout, too."""
    (n, m), rng = lengths, np.random.default_rng(0)
    q, k, v, g = (rng.standard_normal((2, s, 3, e)).astype(dtype) for s, e in ((n, 8), (m, 8), (m, 5), (n, 5)))
    q, k, v, g = (a.transpose(0, 2, 1, 3) for a in (q, k, v, g))
    places = (2, 3, n, m)
    never = np.where(rng.random(places) < 0.3, -np.inf, 1).astype(dtype)
    some = never.copy()
    some[..., :1] = 0.5  # which every query sees
    row = np.broadcast_to(some[:, :1, :1], places)
    for bias, kept in ((None, None), (never, None), (some, None), (row, None), (None, rng.random(places) < 0.8)):
        options = {"bias": bias, "causal": causal, "scale": 0.3, "kept": kept, "kept_scale": 1.25}
        found = []
        for kernels in (cpu, reference):
            y, log_sums = kernels.attention(q, k, v, **options)
            grads = kernels.attention_grad(g, q, k, v, y, log_sums, **options, needs_bias=True)
            assert (grads[3] is None) == (bias is None)
            found.append([y, *grads[: 3 if bias is None else 4]])
        near(*found)


@needs_onednn
@pytest.mark.parametrize("odd", [None, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("shape", "axis"), [((40, 130), 1), ((3, 40, 64), -1), ((64, 100), 0), ((5000, 1), 1)])
def test_softmax(shape, axis, odd):
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, *shape), np.float32)
    if odd is not None:
        x[1], x[2].reshape(-1)[0] = odd, odd
    found = []
    with np.errstate(all="ignore"):
        for kernels in (cpu, reference):
            y = kernels.softmax(x, axis)
            found.append((y, kernels.softmax_grad(g, y, axis)))
    for ours, wanted in zip(*found, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=2e-5, atol=2e-7)


@needs_onednn
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("name", ["tanh", "sigmoid", "silu", "hardswish", "leaky_relu", "relu6", "hardtanh"])
def test_activations(name, last):
    """Those of large arrays, which are oneDNN's, beside those of small ones, made by the array code of the ops."""
    odd = [np.nan, np.inf, -np.inf, 0.0, -0.0, 3, -3, 6, 1, -1, 88, -88, 200, -200, 1e-20, -1e-20, 1e30, -1e30]
    x = np.concatenate([odd, np.linspace(-12, 12, 8192 - len(odd))]).astype(np.float32)
    g = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    found = []
    for pieces in ([slice(None)], [slice(i, i + 1024) for i in range(0, 8192, 1024)]):
        values, slopes = [], []
        for piece in pieces:
            whole = len(pieces) == 1
            t = Tensor(channels_first(x.reshape(4, 16, 16, 8)) if whole and last else x[piece], requires_grad=True)
            with np.errstate(all="ignore"):
                y = getattr(F, name)(t)
                y.backward(Tensor(channels_first(g.reshape(4, 16, 16, 8)) if whole and last else g[piece]))
            made = [a.transpose(0, 2, 3, 1) if whole and last else a for a in (y.array, t.grad.array)]
            values.append(made[0].reshape(-1))
            slopes.append(made[1].reshape(-1))
        found.append((np.concatenate(values), np.concatenate(slopes)))
    (y, gx), (wanted, of_wanted) = found
    assert y.tobytes() != wanted.tobytes() or name in ("leaky_relu", "relu6", "hardtanh")
    # Of what is infinite or NaN the array code of some makes less than oneDNN does.
    assert np.isnan(y[0]) and y[1] == wanted[1]
    np.testing.assert_allclose(y[3:], wanted[3:], rtol=2e-6, atol=2e-7)
    np.testing.assert_allclose(gx[3:], of_wanted[3:], rtol=2e-6, atol=1e-6)


#: (N, C, size, kernel, stride, padding, dilation)
POOLS = [
    (2, 32, (14, 14), (2, 2), (2, 2), (0, 0), (1, 1)),
    (3, 5, (31, 30), (3, 2), (2, 3), (1, 0), (1, 1)),
    (4, 5, (31, 31), (3, 3), (2, 2), (1, 1), (2, 2)),
    (2, 40, (101,), (5,), (2,), (2,), (1,)),
    (2, 7, (9, 10, 11), (2, 3, 2), (2, 1, 1), (1, 1, 0), (1, 1, 1)),
]


@needs_onednn
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("odd", [None, np.nan, -np.inf, np.inf])
@pytest.mark.parametrize("problem", POOLS, ids=str)
def test_the_first_maximum_wins_and_the_last_nan(problem, odd, last):
    """Of many equal elements, for windows that overlap, leave some out, and reach over the edge."""
    n, c, size, *steps = problem
    kernel, stride, padding, dilation = steps
    whole = outs(size, kernel, stride, padding, dilation)
    out = tuple(o + (o * s - p < i) for o, s, p, i in zip(whole, stride, padding, size, strict=True))
    rng = np.random.default_rng(0)
    x, g = (rng.integers(-3, 3, (n, *s, c)).astype(np.float32) for s in (size, out))
    if odd is not None:
        x[rng.random(x.shape) < 0.5] = odd
    x, g = (channels_first(a) if last else np.ascontiguousarray(channels_first(a)) for a in (x, g))
    found = []
    for kernels in (cpu, reference):
        y, kept = kernels.max_pool(x, out, *steps)
        found.append((y, kernels.max_pool_grad(g, kept, size, *steps)))
    for ours, wanted in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, wanted)


@needs_onednn
@pytest.mark.parametrize("amd", [False, True])
def test_small_images_under_large_weights_are_products_where_the_l3_cache_is_slow(amd, monkeypatch):
    monkeypatch.setattr(conv, "is_amd", lambda: amd)
    problem = (64, 340, 350, (2, 2), (3, 3), (1, 1), (1, 1), (1, 1), 1)
    for ours, wanted in zip(results(cpu, problem, np.float32), results(reference, problem, np.float32), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-3)
        assert (ours.tobytes() == wanted.tobytes()) == (not amd)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, bfloat16])
def test_relu_of_what_is_no_number(dtype):
    x = np.tile(np.array([np.nan, -np.nan, -np.inf, np.inf, -0.0, -1.5, 2.0]).astype(dtype), 1000)
    for kernels in (cpu, reference) if cpu.available() else (reference,):
        y = kernels.relu(x).astype(np.float64)
        np.testing.assert_array_equal(y[:7], [np.nan, np.nan, 0, np.inf, 0, 0, 2])
        assert kernels.relu_grad(np.ones_like(x), kernels.relu(x))[:7].tolist() == [1, 1, 0, 1, 0, 0, 1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, bfloat16])
@pytest.mark.parametrize("shape", [(5,), (40, 300), (4, 8, 30, 9)])
def test_sums_are_the_references_by_bytes_in_any_order_of_memory(shape, dtype):
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    x.reshape(-1)[:4], y.reshape(-1)[:4] = [np.nan, np.inf, -np.inf, -0.0], [1, 1, 1, -0.0]
    for a, b in ((x, y), (np.moveaxis(x, 0, -1), np.moveaxis(y, 0, -1)), (x.T, np.ascontiguousarray(y.T))):
        assert cpu.add(a, b).tobytes() == reference.add(a, b).tobytes()


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
        for array in (*results(cpu, problem, np.float32), *results(cpu, problem, bfloat16)):
            found.update(np.ascontiguousarray(array).tobytes())
    x = np.random.default_rng(0).standard_normal((64, 50, 6)).astype(np.float32)
    w, b = x[0, :, :2].T
    for array in (
        cpu.batch_norm(x, w, b, None, None, 1e-5)[0], cpu.layer_norm(x[:, :, 0], w, b, 1e-5)[0], cpu.gelu(x)[0],
        cpu.matmul(x[:, :, 0].astype(bfloat16), x[:50, :, 1].astype(bfloat16)),
    ):  # fmt: skip
        found.update(np.ascontiguousarray(array).tobytes())
    draw = np.random.default_rng(1).standard_normal
    rows, state, w_ih, w_hh, bias = (
        draw(shape).astype(np.float32) for shape in ((64, 48), (16, 32), (128, 48), (128, 32), 128)
    )
    options: dict[str, Any] = {"sizes": [16] * 4, "reverse": False}
    y, *last, saved = cpu.lstm(rows, state, state, w_ih, w_hh, bias, bias, None, **options)
    made = cpu.lstm_grad(y, *last, rows, saved, w_ih, w_hh, None, **options, needs_input=True)
    gru = [w[:96] for w in (w_ih, w_hh, bias)]
    outputs, state, saved = cpu.gru(rows, state, *gru, None, **options)
    made += cpu.gru_grad(outputs, state, rows, saved, *gru[:2], **options, needs_input=True)
    for array in (y, *last, *made, outputs, state):
        found.update(b"" if array is None else array.tobytes())
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
