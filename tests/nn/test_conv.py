"""Convolution layers beside PyTorch's: what its own samples do not show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dtrain import Tensor, nn
from dtrain.nn import functional as F

RNG = np.random.default_rng(0)


def compare(torch: Any, ours: Any, theirs: Any, x: np.ndarray, **options: Any) -> None:
    """Output and all gradients of a module and its twin in PyTorch."""
    theirs = theirs.double()
    for name, p in ours.double().named_parameters():
        p.array[...] = dict(theirs.named_parameters())[name].detach().numpy()
    a, b = Tensor(x, requires_grad=True), torch.from_numpy(x).requires_grad_()
    y, want = ours(a, **options), theirs(b, **options)
    np.testing.assert_allclose(y.array, want.detach().numpy(), atol=1e-12)
    g = RNG.standard_normal(y.shape)
    y.backward(Tensor(g))
    want.backward(torch.from_numpy(g))
    np.testing.assert_allclose(a.grad.array, b.grad.numpy(), atol=1e-12)
    for (_, p), t in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.array, t.grad.numpy(), atol=1e-12)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [(2, 1), "same", "valid"])
def test_padding_modes(torch: Any, mode: str, padding: Any) -> None:
    options = {"padding": padding, "dilation": (1, 2), "groups": 2, "padding_mode": mode}
    made = [m.Conv2d(4, 6, (4, 2), **options) for m in (nn, torch.nn)]
    compare(torch, *made, RNG.standard_normal((2, 4, 6, 7)))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_depthwise(torch: Any, d: int, stride: int) -> None:
    for kernel, padding, dilation in ((3, 1, 1), (2, 2, 1), (3, 0, 2), (1, 1, 1)):
        made = [getattr(m, f"Conv{d}d")(4, 4, kernel, stride, padding, dilation, groups=4) for m in (nn, torch.nn)]
        compare(torch, *made, RNG.standard_normal((2, 4, 7, 6, 5)[: d + 2]))
        made = [
            getattr(m, f"ConvTranspose{d}d")(4, 4, kernel, stride, padding, stride // 2, 4, dilation=dilation)
            for m in (nn, torch.nn)
        ]
        compare(torch, *made, RNG.standard_normal((2, 4, 5, 4, 5)[: d + 2]))


def test_depthwise_in_single_precision(torch: Any) -> None:
    x = RNG.standard_normal((2, 8, 33, 30)).astype(np.float32)
    w = RNG.standard_normal((8, 1, 3, 3)).astype(np.float32)
    y = F.conv2d(Tensor(x), Tensor(w), stride=2, padding=1, groups=8)
    assert y.dtype == np.float32
    want = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(w), stride=2, padding=1, groups=8)
    np.testing.assert_allclose(y.array, want.numpy(), atol=1e-5)


@pytest.mark.parametrize("output_size", [(10, 11), [11, 12], (2, 3, 12, 10)])
def test_output_size(torch: Any, output_size: Any) -> None:
    made = [m.ConvTranspose2d(4, 3, 3, stride=3, padding=1) for m in (nn, torch.nn)]
    compare(torch, *made, RNG.standard_normal((2, 4, 4, 4)), output_size=output_size)


def test_messages() -> None:
    layer = nn.ConvTranspose2d(4, 3, 3, stride=3, padding=1)
    x = Tensor(np.zeros((2, 4, 4, 4), np.float32))
    with pytest.raises(ValueError, match=r"\(13, 10\) is not possible .* \(10, 10\) to \(12, 12\)"):
        layer(x, output_size=(13, 10))
    with pytest.raises(ValueError, match=r"output_padding \(3, 3\) must be below"):
        F.conv_transpose2d(x, layer.weight, stride=3, output_padding=3)
    with pytest.raises(ValueError, match="nothing is left"):
        F.conv_transpose2d(x, layer.weight, padding=4)
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\).*\(4, 3, 3, 3\).*must have 4 channels"):
        F.conv_transpose2d(Tensor(np.zeros((2, 3, 4, 4), np.float32)), layer.weight)
    with pytest.raises(ValueError, match="padding_mode must be 'zeros'"):
        nn.ConvTranspose2d(1, 1, 1, padding_mode="circular")
    with pytest.raises(ValueError, match="padding_mode must be one of"):
        nn.Conv1d(1, 1, 1, padding_mode="mirror")
    with pytest.raises(ValueError, match="'same' with stride 1"):
        nn.Conv3d(1, 1, 2, stride=2, padding="same")
    with pytest.raises(ValueError, match="'same' or 'valid'"):
        F.conv2d(x, layer.weight[:, [0, 0, 0, 0]], padding="full")
