"""grid_sample and affine_grid beside PyTorch: values, gradients of both arguments, and theirs."""

import numpy as np
import pytest

import dtrain
from dtrain.nn import functional as F
from dtrain.ops.grids import bounded, steps
from tests.ops.beside import same, same_error


def image(*shape):
    return np.random.default_rng(1).standard_normal(shape)


def grid(*shape, width=1.6):
    return np.random.default_rng(2).uniform(-width, width, shape)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("size", [(4, 5), (1, 3)])
def test_images(mode, padding, align_corners, size):
    options = {"mode": mode, "padding_mode": padding, "align_corners": align_corners}
    same("nn.functional.grid_sample", [image(2, 3, *size), grid(2, 3, 7, 2)], **options)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_volumes(mode, padding, align_corners):
    options = {"mode": mode, "padding_mode": padding, "align_corners": align_corners}
    same("nn.functional.grid_sample", [image(2, 2, 3, 4, 5), grid(2, 2, 3, 3, 3)], **options)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_points_far_away_and_on_the_edges(mode, padding):
    points = np.array([[-1, -1], [1, 1], [0, 0], [0.25, -0.75], [1e3, -1e3], [17.3, 0.1], [-2.4, 5.5]])
    options = {"mode": mode, "padding_mode": padding, "align_corners": True}
    torch = pytest.importorskip("torch")
    x, points = image(1, 2, 5, 9), points.reshape(1, 1, -1, 2)
    ours = F.grid_sample(dtrain.tensor(x), dtrain.tensor(points), **options)
    theirs = torch.nn.functional.grid_sample(torch.tensor(x), torch.tensor(points), **options)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_no_number_is_a_point(padding):
    points = np.full((1, 1, 3, 2), np.nan)
    points[0, 0, 1] = np.inf, -np.inf
    points[0, 0, 2] = 0
    y = F.grid_sample(dtrain.tensor(image(1, 1, 3, 3)), dtrain.tensor(points), "bilinear", padding).numpy()
    assert np.isfinite(y).all()


def test_bounded_has_the_slope_of_its_line():
    x = dtrain.tensor([-1.75, 0.5, 4.25], requires_grad=True)
    y = bounded(x, 4, "reflection", True)
    assert y.tolist() == [1.75, 0.5, 1.75]
    y.sum().backward()
    assert x.grad.tolist() == [-1, 1, -1]


def test_steps_are_flat():
    x = dtrain.tensor([1.5, 2.5], requires_grad=True)
    steps(x).sum().backward()
    assert x.grad.tolist() == [0, 0]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 1, 1, 3), (1, 1, 2, 3, 4)])
def test_affine_grid(size, align_corners):
    d = len(size) - 2
    same("nn.functional.affine_grid", [image(size[0], d, d + 1)], size=size, align_corners=align_corners)


ERRORS = [
    ("grid_sample", [(1, 2, 3, 3), (2, 4, 4, 2)], (), r"\(1, 2, 3, 3\).*\(2, 4, 4, 2\)"),
    ("grid_sample", [(1, 2, 3, 3), (1, 4, 4, 3)], (), r"\(1, 2, 3, 3\).*\(1, 4, 4, 3\)"),
    ("grid_sample", [(1, 2, 3, 3), (1, 4, 4, 4, 3)], (), r"\(1, 2, 3, 3\).*\(1, 4, 4, 4, 3\)"),
    ("grid_sample", [(1, 2, 3), (1, 4, 1)], (), r"\(1, 2, 3\).*\(1, 4, 1\)"),
    ("grid_sample", [(1, 2, 0, 3), (1, 4, 4, 2)], (), r"\(1, 2, 0, 3\).*\(1, 4, 4, 2\)"),
    ("grid_sample", [(1, 2, 3, 3, 3), (1, 4, 4, 4, 3)], ("bicubic",), "bicubic"),
    ("grid_sample", [(1, 2, 3, 3), (1, 4, 4, 2)], ("cubic",), "cubic"),
    ("grid_sample", [(1, 2, 3, 3), (1, 4, 4, 2)], ("bilinear", "wrap"), "wrap"),
    ("affine_grid", [(2, 2, 3)], ((1, 3, 4, 4),), r"\(2, 2, 3\).*\(1, 3, 4, 4\)"),
    ("affine_grid", [(1, 3, 4)], ((1, 3, 4, 4),), r"\(1, 3, 4\).*\(1, 3, 4, 4\)"),
    ("affine_grid", [(1, 2, 3)], ((1, 3, 4),), r"\(1, 2, 3\).*\(1, 3, 4\)"),
    ("affine_grid", [(1, 2, 3)], ((1, 3, 0, 4),), r"\(1, 2, 3\).*\(1, 3, 0, 4\)"),
]


@pytest.mark.parametrize(("name", "shapes", "arguments", "message"), ERRORS)
def test_errors_name_the_shapes(name, shapes, arguments, message):
    same_error(f"nn.functional.{name}", [image(*shape) for shape in shapes], arguments, message)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_half_precision_stays(mode, padding):
    x = dtrain.tensor(image(1, 2, 3, 4).astype(np.float16), requires_grad=True)
    points = dtrain.tensor(grid(1, 2, 2, 2).astype(np.float16), requires_grad=True)
    y = F.grid_sample(x, points, mode, padding)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == points.grad.dtype == np.float16
