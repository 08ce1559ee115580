"""Every kernel of the CUDA backend, on the CPU, against the reference."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from dtrain.backend import reference
from dtrain.backend.cuda import table
from dtrain.backend.halves import bfloat16, converted
from dtrain.backend.random import Purpose, stream
from dtrain.gpucheck.kernels import DTYPES, attention_cases, compare, image_cases, kernel_cases
from tests.cuda_on_cpu.emulator import checking

SCHEDULES = ("forward", "reverse", "random")


# Rows held in a warp, in a block, and read again; of whole 16 bytes or not; none.
@pytest.mark.parametrize("shape", [(1, 1), (0, 5), (9, 31), (33, 1000), (3, 1032), (2, 4099), (2, 9001)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_compute_what_the_reference_does(gpu, dtype, shape):
    for i, (name, run, given) in enumerate(kernel_cases(*shape)):
        with checking(SCHEDULES[i % 3], seed=i):
            assert compare(dtype, run, given, gpu.asarray) <= 1, name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_images(gpu, dtype):
    for i, (name, run, given) in enumerate(image_cases()):
        with checking(SCHEDULES[i % 3], seed=i):
            assert compare(dtype, run, given, gpu.asarray) <= 1, name


@pytest.mark.parametrize("columns", [16, 80, 128])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention(gpu, dtype, columns):
    for i, (name, run, given) in enumerate(attention_cases([columns])):
        with checking(SCHEDULES[i % 3], seed=i):
            assert compare(dtype, run, given, gpu.asarray) <= 1, name


@pytest.mark.parametrize(
    ("n", "rows", "most"),
    [(1, 1, 1), (5000, 70000, 70000), (4100, 300, 2), (3000, 40, 40), (64, 2, 1), (2049, 256, 256), (700, 255, 300)],
)
def test_gradients_of_tables(gpu, n, rows, most):
    """Few and many rows, long runs of one, and rows outside of the table, which are left out."""
    rng = np.random.default_rng(n)
    index, g = rng.integers(min(0, rows - most), most, n), rng.standard_normal((n, 3)).astype(np.float32)
    inside = (index >= 0) & (index < rows)
    expected = np.zeros((rows, 3))
    np.add.at(expected, index[inside], g[inside].astype(np.float64))
    found = []
    for schedule in SCHEDULES:
        with checking(schedule):
            found.append(gpu.host(_cuda().embedding_grad(gpu.array(g), gpu.array(index), rows)))
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-4)
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()
    keys, order = table._sorted(gpu.array(index), rows)
    expected_keys = np.where(inside, index, rows)
    np.testing.assert_array_equal(gpu.host(order), np.argsort(expected_keys, kind="stable"))
    np.testing.assert_array_equal(gpu.host(keys), np.sort(expected_keys))


@pytest.mark.parametrize("shape", [(), (0,), (7,), (8,), (5, 41)], ids=str)
@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_dropout_masks_are_those_of_the_cpu(gpu, shape, p):
    draw = partial(stream, 3 << 60, Purpose.GRAPH, 2, 1 << 40, 5)
    expected = reference.dropout_mask(draw, shape, p)
    before = gpu.counter.syncs
    with checking("random"):
        found = _cuda().dropout_mask(draw, shape, p)
    assert gpu.counter.syncs == before
    np.testing.assert_array_equal(gpu.host(found), expected)
    other = partial(np.random.default_rng, 0)
    np.testing.assert_array_equal(
        gpu.host(_cuda().dropout_mask(other, shape, p)), reference.dropout_mask(other, shape, p)
    )


@pytest.mark.parametrize("columns", [40, 2052])
def test_the_order_of_threads_changes_no_bit(gpu, columns):
    for name, run, given in kernel_cases(12, columns):
        given = {k: gpu.array(a.astype(np.float32) if a.dtype.kind == "f" else a) for k, a in given.items()}
        found = []
        for schedule in SCHEDULES:
            with checking(schedule):
                results = run(_cuda(), **given)
            found.append([gpu.host(r).tobytes() for r in (results if isinstance(results, tuple) else (results,))])
        assert found[0] == found[1] == found[2], name


@pytest.mark.parametrize("dtype", [np.float32, bfloat16], ids=str)
def test_what_is_not_finite(gpu, dtype):
    x = np.array([[1, np.nan, 2, 0], [-np.inf, 0, 1, -2], [-np.inf] * 4, [np.inf, 1, -np.inf, 0]], np.float32)
    x = x.astype(dtype)
    device, cuda = gpu.array(x), _cuda()
    for name in ("softmax", "log_softmax"):
        with np.errstate(all="ignore"):
            expected = getattr(reference, name)(x.astype(np.float32), 1)
        got = gpu.host(getattr(cuda, name)(device, 1)).astype(np.float32)
        np.testing.assert_allclose(got, expected, rtol=1e-2 if dtype == bfloat16 else 1e-6)
    np.testing.assert_array_equal(gpu.host(cuda.relu(device)).astype(np.float32), reference.relu(x.astype(np.float32)))
    got = gpu.host(cuda.relu_grad(gpu.array(np.full(4, np.nan, dtype)), gpu.array(np.array([0, 1, np.nan, 0], dtype))))
    np.testing.assert_array_equal(got.astype(np.float32), [0, np.nan, np.nan, 0])


def test_memory_layouts(gpu):
    # Views that begin anywhere and lie in another order; results of single elements keep the order.
    x = np.random.default_rng(0).standard_normal((3, 8, 4, 6)).astype(np.float32)
    cuda, whole = _cuda(), gpu.array(x)
    for view in (lambda a: a.transpose(0, 2, 3, 1), lambda a: a[1:, 1:, :, ::2], lambda a: a.reshape(-1)[1:]):
        y = cuda.relu(view(whole))
        np.testing.assert_array_equal(gpu.host(y), reference.relu(view(x)))
        got = gpu.host(cuda.softmax(view(whole), 0))
        np.testing.assert_allclose(got, reference.softmax(view(x), 0), rtol=1e-6)
    last = whole.transpose(0, 2, 3, 1)
    for y in (cuda.relu(last), cuda.add(last, gpu.array(x.transpose(0, 2, 3, 1).copy()))):
        assert y.transpose(0, 3, 1, 2).flags.c_contiguous


@pytest.mark.parametrize("before", [np.float32, bfloat16, np.float16], ids=str)
@pytest.mark.parametrize("after", [np.float32, bfloat16, np.float16], ids=str)
def test_other_dtypes(gpu, before, after):
    x = np.random.default_rng(0).standard_normal((37, 41, 49))
    x[0, 0, :5] = np.inf, -np.inf, np.nan, 0, 1e5
    with np.errstate(over="ignore"):
        x = x.astype(before)
    for view in (
        lambda a: a,
        lambda a: a.transpose(2, 0, 1),
        lambda a: a.reshape(-1)[1:],
        lambda a: a[:, :, ::2],
        lambda a: a.reshape(37, -1)[:, :-7],
    ):
        with np.errstate(all="ignore"), checking("random"):
            got, expected = converted(view(gpu.array(x)), after), view(x).astype(after)
        assert got.dtype == after
        np.testing.assert_array_equal(gpu.host(got).astype(np.float32), expected.astype(np.float32))
    assert converted(gpu.array(x).transpose(2, 0, 1), after).transpose(1, 2, 0).flags.c_contiguous


def _cuda():
    from dtrain.backend import cuda

    return cuda
