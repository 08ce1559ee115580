"""Products by cuBLASLt: what is asked of the library, on a stand-in that refuses what the real one would."""

from __future__ import annotations

import threading
from functools import partial

import numpy as np
import pytest

import dtrain
from dtrain.backend.cuda import cublaslt
from dtrain.backend.halves import bfloat16

SHAPES = [
    ((3, 4), (4, 5)), ((1, 4), (4, 1)), ((1, 1), (1, 1)), ((3, 0), (0, 2)), ((0, 3), (3, 2)), ((3, 2), (2, 0)),
    ((2, 3, 4), (2, 4, 5)), ((2, 3, 4), (4, 5)), ((3, 4), (2, 4, 5)), ((2, 2, 3, 4), (2, 4, 1)),
    ((5, 1, 3, 4), (2, 4, 5)), ((1, 1, 3, 4), (4, 2)), ((0, 3, 4), (0, 4, 5)),
    ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((4,), (2, 4, 5)), ((2, 3, 4), (4,)),
]  # fmt: skip
# How a stack of matrices may lie in memory.
VIEWS = {
    "whole": lambda a: a,
    "turned": lambda a: a.swapaxes(1, 2),
    "other order": lambda a: a.transpose(1, 0, 2),
    "columns outermost": lambda a: a.transpose(2, 1, 0),
    "backwards": lambda a: a[::-1],
    "every second row": lambda a: a[:, ::2],
    "every second column": lambda a: a[:, :, ::2],
    "a part": lambda a: a[:, 1:, 3:],
    "one matrix": lambda a: a[1],
    "one matrix, turned": lambda a: a[1].T,
    "one row": lambda a: a[:, 1:2],
    "one column": lambda a: a[:, :, 3:4],
    "one column, turned": lambda a: a[:, :, 3:4].swapaxes(1, 2),
    "the same one": lambda a: a[:1],
}


def _product(*args, **kwargs):
    from dtrain.backend import cuda

    return cuda.matmul(*args, **kwargs)


@pytest.mark.parametrize("dtype", cublaslt.DTYPES, ids=str)
def test_shapes(gpu, dtype):
    rng = np.random.default_rng(0)
    for of_x, of_y in SHAPES:
        x, y = rng.standard_normal(of_x).astype(dtype), rng.standard_normal(of_y).astype(dtype)
        z = _product(gpu.asarray(x), gpu.asarray(y))
        expected = x.astype(np.float64) @ y.astype(np.float64)
        assert z.shape == expected.shape and z.dtype == dtype
        np.testing.assert_allclose(gpu.host(z).astype(np.float64), expected, rtol=0.02, atol=0.02)
    assert {seen.dtype for seen in gpu.cublaslt.seen} == {dtype, np.dtype(np.float32)}  # the first one is the trial


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
def test_views(gpu, name, dtype):
    a = gpu.asarray(np.random.default_rng(1).integers(-4, 5, (6, 8, 10)).astype(dtype))
    x = VIEWS[name](a)
    y = VIEWS[name](a + gpu.asarray(np.ones((), dtype))).swapaxes(-1, -2)
    bias = gpu.asarray(np.arange(2 * y.shape[-1]).astype(dtype))[::2]
    expected = gpu.host(x).astype(np.float32) @ gpu.host(y).astype(np.float32) + gpu.host(bias).astype(np.float32)
    before = len(gpu.cublaslt.seen)
    np.testing.assert_array_equal(gpu.host(_product(x, y, bias=bias)), expected.astype(dtype))
    assert len(gpu.cublaslt.seen) > before and gpu.cublaslt.seen[-1].bias
    room = gpu.asarray(np.zeros((2, *expected.shape), dtype))
    for out in (room[0], room.reshape(2, -1)[1].reshape(expected.shape[::-1]).T):  # where it is to be written
        assert _product(x, y, out, bias) is out
        np.testing.assert_array_equal(gpu.host(out), expected.astype(dtype))


def test_large_products_have_multiples_of_8(gpu, monkeypatch):
    monkeypatch.setattr(cublaslt, "_LARGE", 64 * 65 * 66)
    rng = np.random.default_rng(0)
    weight, x, small = (rng.integers(-2, 3, s).astype(bfloat16) for s in ((71, 65), (66, 65), (3, 65)))
    bias = rng.integers(-2, 3, 71).astype(bfloat16)
    wide = [gpu.asarray(np.pad(a, ((0, 3), (0, 4))))[: len(a), : a.shape[1]] for a in (x, weight)]  # rows lie apart
    for a, b in ((x, weight.T), (weight, x.T), (x.T, x), (wide[0], weight.T), (wide[1], x.T), (x.T, wide[0])):
        a, b, c = gpu.asarray(a), gpu.asarray(b), gpu.asarray(bias)[: b.shape[1]]
        expected = [gpu.host(m).astype(np.float32) for m in (a, b, c)]
        for of in (None, c):
            z = gpu.host(_product(a, b, bias=of)).astype(np.float32)
            np.testing.assert_array_equal(z, expected[0] @ expected[1] + (0 if of is None else expected[2]))
            seen = gpu.cublaslt.seen[-1]
            assert not any(n % 8 for n in (*seen.lines, seen.inner, seen.shape[2]))
    _product(gpu.asarray(small), gpu.asarray(weight.T))  # of few rows: not worth a copy
    assert gpu.cublaslt.seen[-1].lines == [65, 65, 71]


def test_a_layer_of_two_byte_floats_makes_no_others(gpu):
    """Batched products too: neither they nor the bias are made in float32 beside the library."""
    x = dtrain.randn(2, 4, 8, dtype=dtrain.bfloat16).to("cuda").requires_grad_()
    layer = dtrain.nn.Linear(8, 4, dtype=dtrain.bfloat16).to("cuda")
    (layer(x) @ x).sum().backward()
    # The trial; forward: the layer and the product; backward: two of each.
    assert [seen.bias for seen in gpu.cublaslt.seen] == [True, True, *[False] * 5]
    assert {seen.dtype for seen in gpu.cublaslt.seen[1:]} == {bfloat16}


def test_threads_do_not_share_the_place_of_the_bias(gpu):
    x, weight = (gpu.asarray(np.ones(shape, np.float32)) for shape in ((4, 3), (3, 2)))
    wrong = []

    def work(number: int) -> None:
        bias = gpu.asarray(np.full(2, number, np.float32))
        for _ in range(50):
            if (gpu.host(_product(x, weight, bias=bias)) != 3 + number).any():
                wrong.append(number)

    threads = [threading.Thread(target=partial(work, number)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_precision(gpu):
    x = gpu.asarray(np.ones((2, 2), np.float32))
    with pytest.raises(ValueError, match="'highest', 'high' or 'medium', got 'low'"):
        dtrain.set_float32_matmul_precision("low")
    try:
        dtrain.set_float32_matmul_precision("high")
        _product(x, x)
    finally:
        dtrain.set_float32_matmul_precision("highest")
    _product(x, x)
    kinds = [thing.args[0] for thing in gpu.cublaslt.things.values() if thing and thing.kind == "MatmulDesc"]
    assert kinds[-2:] == [77, 68] and dtrain.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
def test_without_the_library(gpu, dtype, monkeypatch):
    """Where it has no way to compute a product, or is not there, or computes something else, CuPy does."""
    x, y, b = (gpu.asarray(np.arange(n, dtype=np.float32).astype(dtype)) for n in (6, 12, 4))
    x, y = x.reshape(2, 3), y.reshape(3, 4)
    right = [[20, 24, 28, 32], [56, 69, 82, 95]]
    monkeypatch.setattr(gpu.cublaslt, "refuses", lambda code: code == cublaslt.DTYPES[bfloat16])
    assert gpu.host(_product(x, y, bias=b)).tolist() == right
    out = gpu.asarray(np.zeros((2, 1, 2, 4), dtype))
    assert gpu.host(_product(x[None], y[None], out[0], b)).tolist() == [right]
    for load, reason in (
        (lambda: (_ for _ in ()).throw(OSError("libcublasLt.so.13: cannot open")), "OSError: libcublasLt.so.13"),
        (lambda: _Wrong(gpu.cublaslt), "it is wrong"),
        (object, "AttributeError"),
    ):
        for kept in (cublaslt._plan, cublaslt._of_device, cublaslt.why_not):
            kept.cache_clear()
        monkeypatch.setattr(cublaslt, "load", load)
        with pytest.warns(UserWarning, match=f"cuBLASLt cannot be used, and products are CuPy's own: {reason}"):
            assert gpu.host(_product(x, y, bias=b)).tolist() == right


class _Wrong:
    """A library that computes something else."""

    def __init__(self, library: object) -> None:
        self.library = library

    def __getattr__(self, name: str) -> object:
        return getattr(self.library, name)

    def cublasLtMatmul(self, handle: object, operation: object, *args: object) -> int:  # noqa: N802
        return 0
