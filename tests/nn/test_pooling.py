"""Pooling beyond PyTorch's sample inputs: layers that its list lacks, ties and NaN, random regions, layouts."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.autograd import Tensor
from dtrain.backend.random import key
from dtrain.nn import functional as F  # noqa: N812
from dtrain.ops.max_pooling import adaptive_max_pool1d_with_indices

RNG = np.random.default_rng(0)
SIZES = {1: (9,), 2: (8, 7), 3: (6, 5, 7)}


def same(got: Any, want: Any, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(got.array, want.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", [{}, {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}], ids=str)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_pool_and_unpool(torch, dims, options):
    x = RNG.standard_normal((2, 3, *SIZES[dims]))
    options = {"kernel_size": 2, **options}
    results = []
    for module, a in ((nn, Tensor(x)), (torch.nn, torch.from_numpy(x))):
        a.requires_grad_()
        y, where = getattr(module, f"MaxPool{dims}d")(**options, return_indices=True)(a)
        options_back = {n: v for n, v in options.items() if n != "ceil_mode"}
        unpool = getattr(module, f"MaxUnpool{dims}d")(**options_back)
        z = unpool(y * y, where, output_size=a.shape)
        (z * a).sum().backward()
        results.append((y, where, z, a.grad))
    for got, want in zip(*results, strict=True):
        same(got, want)
    assert "kernel_size" in repr(nn.MaxUnpool2d(2))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_ties_and_nan_are_won_as_in_pytorch(torch, dims):
    x = RNG.integers(0, 3, (2, 3, *SIZES[dims])).astype(np.float64)
    x[RNG.random(x.shape) < 0.1] = np.nan
    theirs, ours = torch.from_numpy(x), Tensor(x)
    name = f"max_pool{dims}d"
    options: dict[str, Any] = {"kernel_size": 3, "stride": 1, "padding": 1, "return_indices": True}
    for extra in ({}, {"dilation": 2, "padding": 0}):
        for got, want in zip(
            getattr(F, name)(ours, **options | extra),
            getattr(torch.nn.functional, name)(theirs, **options | extra),
            strict=True,
        ):
            same(got, want)
    for got, want in zip(
        getattr(F, f"adaptive_{name}")(ours, 2, return_indices=True),
        getattr(torch.nn.functional, f"adaptive_{name}")(theirs, 2, return_indices=True),
        strict=True,
    ):
        same(got, want)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_with_and_without_indices_are_alike(dims):
    """Two ways to one result: the kernel, and the elements where the maxima are."""
    gradients = []
    for indices in (False, True):
        x = Tensor(RNG.permutation(2 * 3 * np.prod(SIZES[dims])).reshape(2, 3, *SIZES[dims]).astype(np.float32))
        x = Tensor(np.sin(np.arange(x.array.size)).reshape(x.shape).astype(np.float32)).requires_grad_()
        y = getattr(F, f"max_pool{dims}d")(x, 3, 2, 1, return_indices=indices)
        y = y[0] if indices else y
        (y * y).sum().backward()
        gradients.append((y.array, x.grad.array))
    for one, other in zip(*gradients, strict=True):
        assert one.dtype == other.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("norm_type", [1, 2.0, 3])
def test_lp_pool(torch, dims, norm_type):
    x = RNG.uniform(0.1, 2, (2, 3, *SIZES[dims]))
    results = []
    for f, a in ((F, Tensor(x)), (torch.nn.functional, torch.from_numpy(x))):
        a.requires_grad_()
        y = [f.lp_pool1d, f.lp_pool2d, f.lp_pool3d][dims - 1](a, norm_type, 3, stride=2, ceil_mode=True)
        (y * y).sum().backward()
        results.append((y, a.grad))
    for got, want in zip(*results, strict=True):
        same(got, want)


def test_none_and_zero_as_output_sizes(torch):
    x = RNG.standard_normal((2, 3, 4, 6))
    for size in [(None, 2), (3, None), (0, 2)]:
        same(F.adaptive_avg_pool2d(Tensor(x), size), torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(x), size))
        same(F.adaptive_max_pool2d(Tensor(x), size), torch.nn.functional.adaptive_max_pool2d(torch.from_numpy(x), size))
    assert F.adaptive_max_pool2d(Tensor(x[:0]), 2).shape == (0, 3, 2, 2)


def test_integers(torch):
    x = RNG.integers(-9, 9, (1, 2, 5, 5))
    same(F.max_pool2d(Tensor(x), 3, 2, 1), torch.nn.functional.max_pool2d(torch.from_numpy(x), 3, 2, 1))


def test_fractional_regions_are_drawn_by_step_and_microbatch():
    x = Tensor(RNG.standard_normal((2, 3, 20, 20)).astype(np.float32))
    layer = nn.FractionalMaxPool2d(2, output_ratio=0.7)

    def at(*place: int) -> np.ndarray:
        with key.at(*place):
            return layer(x).array

    assert at(0, 0, 0).shape == (2, 3, 14, 14)
    np.testing.assert_array_equal(at(0, 3, 1), at(0, 3, 1))
    assert (at(0, 3, 1) != at(0, 3, 2)).any()
    y, where = F.fractional_max_pool2d(x, 2, 14, return_indices=True)
    np.testing.assert_array_equal(
        y.array, np.take_along_axis(x.array.reshape(2, 3, -1), where.array.reshape(2, 3, -1), 2).reshape(y.shape)
    )


def test_top_level(torch):
    x = RNG.standard_normal((2, 3, 7))
    ours, theirs = Tensor(x), torch.from_numpy(x)
    assert dtrain.adaptive_max_pool1d is adaptive_max_pool1d_with_indices
    for got, want in zip(dtrain.adaptive_max_pool1d(ours, 3), torch.adaptive_max_pool1d(theirs, 3), strict=True):
        same(got, want)
    for name in ("max_pool1d", "avg_pool1d", "adaptive_avg_pool1d"):
        same(getattr(dtrain, name)(ours, 2), getattr(torch, name)(theirs, 2))


def t(*shape: int) -> Tensor:
    return dtrain.zeros(*shape)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: F.max_pool1d(t(1, 1, 2, 2), 2), ValueError, r"2 or 3 dimensions.*\(1, 1, 2, 2\)"),
        (lambda: F.max_pool2d(t(1, 1, 1, 1), 2, 1, 2, 3, False, True), ValueError, "passes over"),
        (lambda: F.avg_pool2d(t(1, 1, 4, 4).long(), 2), TypeError, "int64"),
        (lambda: F.adaptive_avg_pool3d(t(1, 4, 4, 4), (2, 2)), ValueError, r"3 of them.*\(2, 2\)"),
        (lambda: F.lp_pool2d(t(1, 4, 4), 0, 2), ValueError, "norm_type"),
        (lambda: F.max_unpool2d(t(1, 2, 2), t(1, 2, 3).long(), 2), ValueError, r"\(1, 2, 3\), input \(1, 2, 2\)"),
        (lambda: F.max_unpool2d(t(1, 2, 2), t(1, 2, 2), 2), TypeError, "integers"),
        (lambda: F.max_unpool2d(t(1, 2, 2), t(1, 2, 2).long() + 16, 2), IndexError, "16 is out of range"),
        (lambda: F.max_unpool2d(t(1, 2, 2), t(1, 2, 2).long(), 2, output_size=(6, 4)), ValueError, "not possible"),
        (lambda: F.max_unpool2d(t(1, 2, 2), t(1, 2, 2).long(), 2, output_size=(4,)), ValueError, "2 numbers"),
        (lambda: F.fractional_max_pool2d(t(1, 4, 4), 3, 3), ValueError, "do not fit"),
        (lambda: F.fractional_max_pool2d(t(1, 4, 4), 2, 2, 0.5), ValueError, "not both"),
        (lambda: F.fractional_max_pool2d(t(1, 4, 4), 2, 2, None, False, t(1, 1, 3)), ValueError, r"\(1, 1, 2\)"),
        (lambda: F.fractional_max_pool2d(t(1, 4, 4), 2, 2, None, False, t(1, 1, 2).double()), TypeError, "float64"),
        (lambda: nn.FractionalMaxPool2d(2), ValueError, "output_ratio"),
        (lambda: nn.FractionalMaxPool3d(2, output_ratio=1.5), ValueError, r"in \(0, 1\)"),
    ],
)
def test_errors(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_pooled_images_are_freed():
    """Of a sliding maximum's input only the shape is kept for the backward pass."""
    for indices in (False, True):
        x = Tensor(np.ones((1, 1, 4, 4)), True)
        y = x * 2
        freed = weakref.ref(y.array)
        z = F.max_pool2d(y, 2, return_indices=indices)
        del y
        assert freed() is None
        assert (z[0] if indices else z).requires_grad
