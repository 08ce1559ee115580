"""Convolution of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtrain.autograd import Joint, op
from dtrain.backend import Array, backend_of
from dtrain.ops.dtypes import same_dtype

__all__ = ["conv2d", "pair"]


def pair(name: str, value: Any, least: int) -> tuple[int, int]:
    """One number or two as (vertical, horizontal). Raises ValueError for anything else or below `least`."""
    two = (value, value) if isinstance(value, int) else tuple(value)
    if len(two) == 1:
        two *= 2
    if len(two) != 2 or any(not isinstance(v, int) or v < least for v in two):
        raise ValueError(f"{name} must be one or two whole numbers of at least {least}, got {value!r}")
    return two


@op
def conv2d(
    input: Any,  # noqa: A002
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Cross-correlation of images. input: (N, I, H, W) or (I, H, W), weight: (O, I / groups, KH, KW), bias: (O,)

    -> (N, O, OH, OW) with OH = (H + 2 padding - dilation (KH - 1) - 1) // stride + 1.
    padding may be "valid" (0) or "same" (stride 1 and an odd extent of the kernel).
    Raises ValueError where the shapes do not fit.
    """
    x = input if input.ndim == 4 else input[None]
    if x.ndim != 4 or weight.ndim != 4:
        raise ValueError(
            f"conv2d needs images of 3 or 4 dimensions and a weight of 4, got {input.shape} and {weight.shape}"
        )
    stride, dilation = pair("stride", stride, 1), pair("dilation", dilation, 1)
    padding = _padding(padding, weight.shape[2:], stride, dilation)
    o, i = weight.shape[:2]
    if groups < 1 or x.shape[1] != i * groups or o % groups:
        raise ValueError(
            f"conv2d: input of shape {input.shape} does not fit a weight of shape {weight.shape} with groups={groups}; "
            f"the input must have {i * groups} channels and groups must divide {o}"
        )
    if bias is not None and bias.shape != (o,):
        raise ValueError(f"conv2d: bias has shape {bias.shape}, the weight {weight.shape} wants ({o},)")
    for size, kernel, p, d in zip(x.shape[2:], weight.shape[2:], padding, dilation, strict=True):
        if size + 2 * p < d * (kernel - 1) + 1:
            raise ValueError(
                f"conv2d: a kernel of {tuple(weight.shape[2:])} with dilation {dilation} is larger than the padded "
                f"image, {tuple(n + 2 * q for n, q in zip(x.shape[2:], padding, strict=True))}"
            )
    same_dtype("conv2d", x, weight, bias)
    kernels = backend_of(x)
    y = kernels.conv2d(x, weight, bias, stride, padding, dilation, groups)

    def pullback(g: Array, needs: Sequence[bool]) -> list[Array | None]:
        needs = (*needs, False)[:3]
        g = g if input.ndim == 4 else g[None]
        gx, gw, gb = kernels.conv2d_grad(g, x, weight, stride, padding, dilation, groups, needs)
        return [gx if gx is None or input.ndim == 4 else gx[0], gw, gb]

    return (y if input.ndim == 4 else y[0]), Joint(pullback)


def _padding(padding: Any, kernel: Any, stride: Any, dilation: Any) -> tuple[int, int]:
    if padding == "valid":
        return 0, 0
    if padding != "same":
        return pair("padding", padding, 0)
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if stride != (1, 1) or any(t % 2 for t in total):
        raise ValueError(
            f"padding='same' needs stride 1 and dilation * (kernel - 1) even, got stride {stride}, kernel "
            f"{tuple(kernel)}"
        )
    return total[0] // 2, total[1] // 2
