"""Resampling, folding and shuffling beside PyTorch: what its own sample inputs (tests/parity) do not show."""

import numpy as np
import pytest

from dtrain import Tensor, nn
from dtrain.nn import functional as F
from dtrain.ops.folding import from_windows, to_windows
from dtrain.ops.resampling import Taps, cubic, weighted
from tests.ops.beside import same, same_error


def image(*shape, dtype=np.float64):
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


def test_taps_are_a_matrix():
    taps = Taps(np.array([[0, 3], [3, 2], [1, 1]]), np.array([[1.0, 2.0], [3.0, 0.0], [4.0, 5.0]]), 4)
    dense = np.array([[1.0, 0, 0, 2], [0, 0, 0, 3], [0, 9, 0, 0]])
    x = image(2, 4, 3)
    np.testing.assert_allclose(weighted(Tensor(x), taps, 1).numpy(), dense @ x)
    np.testing.assert_allclose(weighted(Tensor(x), taps.transposed, 2).numpy(), x @ dense)


def test_cubic_weights_give_parabolas_back():
    t = np.linspace(0, 1, 5)
    np.testing.assert_allclose(sum(cubic(t)), 1)
    weights = np.array(cubic(t, -0.5))
    np.testing.assert_allclose(np.array([1, 0, 1, 4]) @ weights, t**2, atol=1e-12)


def test_windows_are_each_others_gradients():
    options = (2, 3), (2, 1), (1, 0), (1, 2)
    x = image(2, 3, 5, 6)
    columns = to_windows(Tensor(x), (5, 2), *options).numpy()
    assert columns.shape == (2, 3, 2, 3, 5, 2)
    g = image(*columns.shape)
    back = from_windows(Tensor(g), (5, 6), *options).numpy()
    np.testing.assert_allclose((back * x).sum(), (columns * g).sum())


def test_upsample_is_interpolate():
    same("nn.functional.upsample", [image(1, 2, 3, 4)], scale_factor=2, mode="bilinear")


ANTIALIASED = [
    ((3, 4), None), ((4, 11), None), ((9, 2), None), ((1, 1), None), ((7, 8), None), (None, (0.4, 0.3)),
    (None, (0.4, 1.7)), (None, 0.55), (None, 2.3),
]  # fmt: skip


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("size", "scale"), ANTIALIASED)
def test_antialias(mode, align_corners, size, scale):
    options = {"size": size, "scale_factor": scale, "mode": mode, "align_corners": align_corners}
    same("nn.functional.interpolate", [image(2, 3, 7, 8)], antialias=True, **options)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic", "area"])
@pytest.mark.parametrize("size", [(1, 1), (3, 10), (29, 30), (97, 3)])
def test_float32_rounds_to_the_same_pixels(mode, size):
    same("nn.functional.interpolate", [image(1, 2, 29, 41, dtype=np.float32)], size=size, mode=mode, rtol=1e-4)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic", "area"])
@pytest.mark.parametrize("scale", [0.3, 1.37, (2.9, 0.61)])
def test_recompute_scale_factor(mode, scale, recompute):
    options = {"scale_factor": scale, "mode": mode, "recompute_scale_factor": recompute}
    same("nn.functional.interpolate", [image(1, 2, 11, 9)], **options)


def test_pixels_of_integers_are_repeated():
    x = np.arange(6, dtype=np.uint8).reshape(1, 1, 2, 3)
    y = F.interpolate(Tensor(x), scale_factor=2)
    assert y.dtype == np.uint8 and y.tolist()[0][0][1] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("shape", "size", "options"),
    [
        ((2, 12, 9), (4, 5), {"kernel_size": (2, 3)}),
        ((12, 9), (4, 5), {"kernel_size": (2, 3)}),
        ((1, 8, 9), (5, 5), {"kernel_size": 2, "stride": 2, "padding": 1, "dilation": 1}),
        ((2, 18, 3), (6, 7), {"kernel_size": 3, "stride": (2, 2), "padding": (0, 0), "dilation": (2, 1)}),
    ],
)
def test_fold(shape, size, options):
    same("nn.functional.fold", [image(*shape)], output_size=size, **options)


MODULES = [
    ("ChannelShuffle", (2,), (2, 4, 3, 3)),
    ("Fold", ((4, 5), (2, 3)), (2, 12, 9)),
    ("PixelShuffle", (2,), (4, 2, 3)),
    ("PixelUnshuffle", (3,), (2, 1, 6, 3)),
    ("Unfold", ((2, 3), 1, 1, 2), (2, 2, 4, 5)),
    ("Unfold", (2,), (2, 4, 5)),
    ("Upsample", ((4, 5),), (2, 2, 3, 3)),
    ("Upsample", (None, 2, "trilinear", True), (2, 2, 3, 2, 2)),
    ("UpsamplingBilinear2d", (None, 2), (2, 2, 3, 3)),
    ("UpsamplingNearest2d", ((5, 7),), (2, 2, 3, 3)),
]


@pytest.mark.parametrize(("name", "arguments", "shape"), MODULES)
def test_modules(name, arguments, shape):
    torch = pytest.importorskip("torch")
    ours, theirs = getattr(nn, name)(*arguments), getattr(torch.nn, name)(*arguments)
    x = image(*shape)
    np.testing.assert_allclose(ours(Tensor(x)).numpy(), theirs(torch.tensor(x)).numpy(), rtol=1e-12, atol=1e-12)
    assert name in repr(ours)


ERRORS = [
    ("pixel_shuffle", (1, 9, 4, 4), (2,), r"\(1, 9, 4, 4\)"),
    ("pixel_shuffle", (4, 4), (2,), r"\(4, 4\)"),
    ("pixel_shuffle", (1, 4, 4, 4), (0,), r"\(1, 4, 4, 4\)"),
    ("pixel_unshuffle", (1, 9, 4, 5), (2,), r"\(1, 9, 4, 5\)"),
    ("channel_shuffle", (1, 9, 4, 5), (2,), r"\(1, 9, 4, 5\)"),
    ("channel_shuffle", (9, 4), (3,), r"\(9, 4\)"),
    ("unfold", (1, 2, 3, 3), (4,), r"\(4, 4\).*\(1, 2, 3, 3\)"),
    ("unfold", (3, 3), (2,), r"\(3, 3\)"),
    ("unfold", (1, 2, 3, 3), (2, 1, -1), "padding"),
    ("fold", (1, 7, 4), ((3, 3), 2), r"\(2, 2\).*\(1, 7, 4\)"),
    ("fold", (1, 8, 5), ((3, 3), 2), r"\(3, 3\).*\(1, 8, 5\)"),
    ("interpolate", (1, 2), (3,), r"\(1, 2\)"),
    ("interpolate", (1, 2, 3), (), "size"),
    ("interpolate", (1, 2, 3), (3, 2.0), "size"),
    ("interpolate", (1, 2, 3), ((3, 3),), r"\(3, 3\).*\(1, 2, 3\)"),
    ("interpolate", (1, 2, 3), (0,), r"\(1, 2, 3\) to \(0,\)"),
    ("interpolate", (1, 2, 3), (4, None, "bilinear"), r"\(1, 2, 3\)"),
    ("interpolate", (1, 2, 3), (4, None, "nearest", True), "align_corners"),
    ("interpolate", (1, 2, 3), (4, None, "linear", None, True), "recompute_scale_factor"),
    ("interpolate", (1, 2, 3), (4, None, "linear", None, None, True), "antialias"),
    ("interpolate", (1, 2, 3), (4, None, "cubic"), "cubic"),
]


@pytest.mark.parametrize(("name", "shape", "arguments", "message"), ERRORS)
def test_errors_say_what_was_given(name, shape, arguments, message):
    same_error(f"nn.functional.{name}", [image(*shape)], arguments, message)
