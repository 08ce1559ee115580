"""The reference kernels against definitions that are shorter and slower than they are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dtrain.backend import backend_of, cpu, device_of, reference, to_device, to_numpy, xp_of
from dtrain.backend.random import Purpose, stream


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 2e-15), (np.float32, 5e-7)])
def test_erf(dtype, tolerance):
    x = np.concatenate([np.linspace(-7, 7, 4001), [0.0, -0.0, 1e-30, -1e-8, 2.5, 26.0, -40.0]]).astype(dtype)
    want = np.array([math.erf(v) for v in x.astype(np.float64)])
    got = reference.erf(x)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(x))
    edge = reference.erf(np.array([np.inf, -np.inf, np.nan], dtype))
    np.testing.assert_array_equal(edge, [1, -1, np.nan])


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 5)])
@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 1.0])
def test_dropout_mask_compares_the_first_words_of_the_stream(shape, p):
    n = math.prod(shape)
    philox = stream(11, Purpose.GRAPH, 1, 2, 3).bit_generator
    words = []
    for _ in range((n + 1) // 2):
        word = int(philox.random_raw())
        words += [word % 2**32, word >> 32]
    want = [w >= min(p * 2**32, 2**32 - 1) for w in words[:n]]
    mask = reference.dropout_mask(lambda: stream(11, Purpose.GRAPH, 1, 2, 3), shape, p)
    assert (mask.shape, mask.dtype) == (shape, np.bool_)
    np.testing.assert_array_equal(mask.ravel(), np.array(want, bool))


def test_embedding_grad_sums_each_row_by_itself():
    rng = np.random.default_rng(0)
    g = (rng.standard_normal((300, 3)) * 10.0 ** rng.integers(-6, 6, (300, 1))).astype(np.float32)
    index = rng.integers(0, 7, 300)
    index[index == 4] = 5  # a row that nobody asked for
    got = reference.embedding_grad(g, index, 8)
    want = np.zeros((8, 3))
    np.add.at(want, index, g)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=0.1)
    assert not got[[4, 7]].any()
    for row in range(7):  # the same bits without the other rows
        alone = reference.embedding_grad(g[index == row], index[index == row], 8)
        np.testing.assert_array_equal(alone[row], got[row])
    whole = np.array([[1.0], [2.0], [4.0], [8.0]])
    assert reference.embedding_grad(whole, np.array([1, 0, 1, 1]), 3).tolist() == [[2], [13], [0]]
    assert reference.embedding_grad(g[:0], index[:0], 2).tolist() == [[0, 0, 0]] * 2


def naive_convolution(x, w, b, stride, padding, dilation, groups):
    """A loop for each place of the window and of what comes out."""
    o, i, *kernel = w.shape
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)))
    sizes = zip(padded.shape[2:], kernel, stride, dilation, strict=True)
    y = np.zeros((len(x), o, *((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in sizes)))
    for out in range(o):
        first = out // (o // groups) * i
        for place in np.ndindex(y.shape[2:]):
            for k in np.ndindex(*kernel):
                at = tuple(p * s + m * d for p, s, m, d in zip(place, stride, k, dilation, strict=True))
                y[(slice(None), out, *place)] += (
                    padded[(slice(None), slice(first, first + i), *at)] @ w[(out, slice(None), *k)]
                )
        y[:, out] += b[out]
    return y


def out_size(x, w, stride, padding, dilation):
    sizes = zip(x.shape[2:], w.shape[2:], stride, padding, dilation, strict=True)
    return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)


OPTIONS = [  # stride, padding, dilation
    ((1,), (1,), (2,)),
    ((2,), (0,), (1,)),
    ((1, 1), (0, 0), (1, 1)),
    ((2, 3), (1, 2), (1, 1)),
    ((1, 2), (2, 0), (2, 1)),
    ((2, 1), (0, 3), (1, 1)),
    ((1, 1, 1), (1, 0, 1), (1, 2, 1)),
    ((1, 2, 1), (1, 1, 0), (1, 1, 1)),
]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("stride", "padding", "dilation"), OPTIONS)
def test_convolution_is_its_definition(stride, padding, dilation, groups):
    rng = np.random.default_rng(0)
    d = len(stride)
    x, o = rng.standard_normal((2, 4, *(7, 6, 5)[:d])), 4 if groups == 4 else 6
    w, b = rng.standard_normal((o, 4 // groups, *(3, 2, 2)[:d])), rng.standard_normal(o)
    size, kernel, out = x.shape[2:], w.shape[2:], out_size(x, w, stride, padding, dilation)
    options = (stride, padding, dilation, groups)
    y = reference.convolution(x, w, b, out, *options)
    np.testing.assert_allclose(y, naive_convolution(x, w, b, *options), atol=1e-12)
    # The sum of g * y is linear in x and in w: what the gradients say of them is that sum.
    g = rng.standard_normal(y.shape)
    whole = (g * (y - b.reshape(-1, *(1,) * d))).sum()
    gx = reference.convolution_data_grad(g, w, size, *options)
    gw = reference.convolution_weight_grad(g, x, kernel, *options)
    assert (gx.shape, gw.shape) == (x.shape, w.shape)
    np.testing.assert_allclose((gx * x).sum(), whole)
    np.testing.assert_allclose((gw * w).sum(), whole)
    for grad, wanted, varied in ((gx, x, 0), (gw, w, 1)):  # and at one place
        at = tuple(n // 2 for n in wanted.shape)
        unit = np.zeros(wanted.shape)
        unit[at] = 1
        other = [x, w]
        other[varied] = unit
        np.testing.assert_allclose(grad[at], (g * reference.convolution(*other, None, out, *options)).sum(), atol=1e-12)
    np.testing.assert_allclose(reference.channel_sums(g), g.sum((0, *range(2, d + 2))))


def test_convolution_in_blocks_is_convolution_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((5, 3, 6, 6)), rng.standard_normal((4, 3, 3, 3)), rng.standard_normal(4)
    options = ((1, 1), (1, 1), (1, 1), 1)

    def everything():
        y = reference.convolution(x, w, b, (6, 6), *options)
        gx = reference.convolution_data_grad(x[:, [0, 1, 2, 0]], w, (6, 6), *options)
        return y, gx, reference.convolution_weight_grad(x[:, [0, 1, 2, 0]], x, (3, 3), *options)

    whole = everything()
    monkeypatch.setattr(reference.conv, "_PATCH_ELEMENTS", 2 * 36 * 27)  # two images at a time
    monkeypatch.setattr(reference.conv, "_PATCH_ROWS", 1)
    for a, b_ in zip(everything(), whole, strict=True):
        np.testing.assert_allclose(a, b_, atol=1e-10)


def test_depthwise_convolution_of_an_image_has_the_same_bits_in_any_batch():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((3, 4, 9, 8)), rng.standard_normal((4, 1, 3, 3))
    for stride in (1, 2):
        options = ((stride, stride), (1, 1), (1, 1), 4)
        y = reference.convolution(x, w, None, out_size(x, w, *options[:3]), *options)
        gx = reference.convolution_data_grad(y, w, (9, 8), *options)
        for i in range(3):
            alone = reference.convolution(x[i : i + 1], w, None, y.shape[2:], *options)
            np.testing.assert_array_equal(alone[0], y[i])
            np.testing.assert_array_equal(reference.convolution_data_grad(alone, w, (9, 8), *options)[0], gx[i])


@pytest.mark.parametrize("causal", [False, True])
def test_attention_in_blocks_is_attention_at_once(monkeypatch, causal):
    rng = np.random.default_rng(0)
    q, k, v, g = (rng.standard_normal((2, 3, n, 4)) for n in (7, 5, 5, 7))
    options = {
        "bias": rng.standard_normal((2, 3, 7, 5)),
        "causal": causal,
        "scale": 0.5,
        "kept": rng.random((2, 3, 7, 5)) < 0.7,
        "kept_scale": 1.5,
    }

    def everything():
        y, log_sums = reference.attention(q, k, v, **options)
        return [y, *reference.attention_grad(g, q, k, v, y, log_sums, **options, needs_bias=True)]

    whole = everything()
    monkeypatch.setattr(reference.blockwise_attention, "_WEIGHT_ELEMENTS", 3 * 5 * 2)  # two queries at a time
    for a, b in zip(everything(), whole, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.transpose(0, 2, 1), lambda x: x[::2, :, ::3]])
def test_gelu_keeps_the_layout_and_has_its_values_whatever_the_chunk(monkeypatch, view, dtype):
    monkeypatch.setattr(reference.elementwise, "_CHUNK_ELEMENTS", 7)
    x = view(np.random.default_rng(0).standard_normal((4, 5, 6)).astype(dtype) * 2)
    y, slope = reference.gelu(x)
    want = np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x.ravel().tolist()]).reshape(x.shape)
    assert y.dtype == slope.dtype == dtype
    assert np.argsort(y.strides).tolist() == np.argsort(x.strides).tolist()
    np.testing.assert_allclose(y, want, atol=1e-6 if dtype == np.float32 else 1e-14)
    step = 1e-6
    wide = x.astype(np.float64)
    difference = (reference.gelu(wide + step)[0] - reference.gelu(wide - step)[0]) / (2 * step)
    np.testing.assert_allclose(slope, difference, atol=2e-6)


def test_softmax_does_not_overflow():
    x = np.array([[1e38, 1e38], [-1e38, 1e38]], np.float32)
    np.testing.assert_array_equal(reference.softmax(x, 1), [[0.5, 0.5], [0, 1]])
    assert np.isfinite(reference.log_softmax(x / 1e34, 1)).all()


def test_all_names_are_functions():
    assert all(callable(getattr(reference, name)) for name in reference.__all__)


def test_backend_follows_the_array():
    x = np.zeros(2)
    assert backend_of(x) in (cpu, reference)
    assert xp_of(x) is xp_of(np.float32(1)) is np
    assert device_of(x) == "cpu"
    assert to_device(x, "cpu") is to_numpy(x) is x
    for function in (backend_of, xp_of):
        with pytest.raises(TypeError, match="expected a NumPy array or one of CuPy, got list"):
            function([1])
    with pytest.raises(ValueError, match="device 'cuda:0' is not available"):
        to_device(x, "cuda:0")
