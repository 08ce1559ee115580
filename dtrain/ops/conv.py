"""Convolution of images of 1, 2 and 3 dimensions, and its transpose.

Three ops do all of it, for any number of dimensions: the convolution, its gradient in the input, and its gradient
in the weight. Each one's gradients are the other two, so they can be differentiated as often as one likes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dtrain.autograd import Into, op
from dtrain.backend import backend_of
from dtrain.ops.dtypes import lowered, plain, same_dtype
from dtrain.ops.geometry import Sizes, batched, numbers, unbatched

__all__ = [
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
]  # fmt: skip


class _Shape(NamedTuple):
    """How windows lie on images: sizes of the image, of the window, and of what comes out; zeros before the image."""

    size: Sizes
    kernel: Sizes
    out: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int

    @property
    def steps(self) -> tuple[Sizes, Sizes, Sizes, int]:
        return self.stride, self.padding, self.dilation, self.groups


@op(halves=True)
def _convolution(x: Any, weight: Any, bias: Any, shape: _Shape) -> Any:
    """x: (N, I, *size), weight: (O, I / groups, *kernel), bias: (O,) or None -> (N, O, *out)"""
    a = plain(x)
    return backend_of(a).convolution(a, plain(weight), plain(bias), shape.out, *shape.steps), (
        lambda g: _to_data.raw(g, weight, shape),
        Into(lambda g, out: _to_weight.raw(g, x, shape, out)),
        lambda g: _channel_sums(g),
    )


@op(halves=True)
def _to_data(g: Any, weight: Any, shape: _Shape) -> Any:
    """(N, O, *out), (O, I / groups, *kernel) -> (N, I, *size): what `_convolution` sends back to x."""
    a = plain(g)
    return backend_of(a).convolution_data_grad(a, plain(weight), shape.size, *shape.steps), (
        lambda h: _convolution.raw(h, weight, None, shape),
        lambda h: _to_weight.raw(g, h, shape),
    )


@op(halves=True)
def _to_weight(g: Any, x: Any, shape: _Shape, out: Any = None) -> Any:
    """(N, O, *out), (N, I, *size) -> (O, I / groups, *kernel): what `_convolution` sends back to its weight."""
    a = plain(g)
    return backend_of(a).convolution_weight_grad(a, plain(x), shape.kernel, *shape.steps, out=out), (
        lambda h: _convolution.raw(x, h, None, shape),
        lambda h: _to_data.raw(g, h, shape),
    )


def _channel_sums(g: Any) -> Any:
    return backend_of(g).channel_sums(g) if plain(g) is g else g.sum((0, *range(2, g.ndim)))


def _checked(name: str, input: Any, weight: Any, bias: Any, dims: int, groups: int, transposed: bool) -> None:
    """Raise where the operands do not fit: ValueError, and TypeError for different dtypes."""
    if weight.ndim != dims + 2:
        raise ValueError(f"{name} needs a weight of {dims + 2} dimensions, got {weight.shape} for input {input.shape}")
    channels, (first, second) = input.shape[-dims - 1], weight.shape[:2]
    wanted = first if transposed else second * groups
    if groups < 1 or channels != wanted or first % groups:
        raise ValueError(
            f"{name}: input of shape {input.shape} does not fit a weight of shape {weight.shape} with groups={groups}; "
            f"the input must have {wanted} channels and groups must divide {first}"
        )
    outputs = second * groups if transposed else first
    if 0 in weight.shape[0 if transposed else 1 :]:
        raise ValueError(f"{name}: a weight needs elements, got shape {weight.shape} for input {input.shape}")
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"{name}: bias has shape {bias.shape}, the weight {weight.shape} wants ({outputs},)")
    same_dtype(name, input, weight, bias)


@lowered
def _conv(dims: int, input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    name = f"conv{dims}d"
    x = batched(name, input, dims, empty=True)
    _checked(name, input, weight, bias, dims, groups, transposed=False)
    stride, dilation = numbers("stride", stride, dims, 1), numbers("dilation", dilation, dims, 1)
    size, kernel = x.shape[2:], weight.shape[2:]
    total: Sizes  # padding, before and behind
    if padding == "same":
        if set(stride) != {1}:
            raise ValueError(f"{name}: padding='same' needs stride 1, got {stride}; give numbers")
        total = tuple(d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
    elif isinstance(padding, str) and padding != "valid":
        raise ValueError(f"{name}: padding must be numbers, 'same' or 'valid', got {padding!r}")
    else:
        total = tuple(2 * p for p in numbers("padding", 0 if padding == "valid" else padding, dims, 0))
    spans = [n + t - d * (k - 1) - 1 for n, t, d, k in zip(size, total, dilation, kernel, strict=True)]
    if min(spans) < 0:
        raise ValueError(
            f"{name}: a kernel of {kernel} with dilation {dilation} is larger than the padded image, "
            f"{tuple(n + t for n, t in zip(size, total, strict=True))}; input {input.shape}, weight {weight.shape}"
        )
    out = tuple(n // s + 1 for n, s in zip(spans, stride, strict=True))
    shape = _Shape(size, kernel, out, stride, tuple(t // 2 for t in total), dilation, groups)
    return unbatched(_convolution(x, weight, bias, shape), input)


@lowered
def _conv_transpose(
    dims: int,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Any:
    name = f"conv_transpose{dims}d"
    x = batched(name, input, dims, empty=True)
    _checked(name, input, weight, bias, dims, groups, transposed=True)
    stride, dilation = numbers("stride", stride, dims, 1), numbers("dilation", dilation, dims, 1)
    padding, extra = numbers("padding", padding, dims, 0), numbers("output_padding", output_padding, dims, 0)
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise ValueError(f"{name}: output_padding {extra} must be below stride {stride} or dilation {dilation}")
    kernel = weight.shape[2:]
    size = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(x.shape[2:], stride, padding, dilation, kernel, extra, strict=True)
    )
    if min(size) < 1:
        raise ValueError(
            f"{name}: nothing is left, {size}, of an input {input.shape} and a weight {weight.shape} with stride "
            f"{stride}, padding {padding}; use less padding"
        )
    y = _to_data(x, weight, _Shape(size, kernel, x.shape[2:], stride, padding, dilation, groups))
    if bias is not None:
        y = y + bias.reshape(-1, *(1,) * dims)
    return unbatched(y, input)


def conv1d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """Cross-correlation of sequences: `conv2d` in one dimension.  (N, I, L) or (I, L) -> (N, O, OL)

    weight: (O, I / groups, K). Raises ValueError for groups or channels that do not fit, and a kernel larger than the
    padded input.
    """
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """Cross-correlation of images. input: (N, I, H, W) or (I, H, W), weight: (O, I / groups, KH, KW), bias: (O,)

    -> (N, O, OH, OW) with OH = (H + 2 padding - dilation (KH - 1) - 1) // stride + 1, and

        y[n, o, i, j] = bias[o] + sum over c, k, l of weight[o, c, k, l]
                        x[n, c, i stride + k dilation - padding, j stride + l dilation - padding].

    The channels are cut into `groups`, each of which makes O / groups channels. padding: zeros at each side, "valid"
    (0), or "same": as many as keep the size (stride 1), the odd one behind. Raises ValueError where shapes do not fit,
    TypeError for different dtypes.
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """Cross-correlation of volumes: `conv2d` in three dimensions.  (N, I, D, H, W) -> (N, O, OD, OH, OW)

    weight: (O, I / groups, KD, KH, KW). Raises ValueError for groups or channels that do not fit, and a kernel larger
    than the padded input.
    """
    return _conv(3, input, weight, bias, stride, padding, dilation, groups)


def conv_transpose1d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """The transpose of `conv1d`: `conv_transpose2d` in one dimension.  (N, I, L) or (I, L) -> (N, O, OL)

    weight: (I, O / groups, K). Raises ValueError for groups or channels that do not fit.
    """
    return _conv_transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """The transpose of `conv2d` as a linear map.  (N, I, H, W) or (I, H, W) -> (N, O, OH, OW)

    weight: (I, O / groups, KH, KW), bias: (O,). What conv2d with these options sends back to its input, plus bias:
    OH = (H - 1) stride - 2 padding + dilation (KH - 1) + output_padding + 1. Raises ValueError where the shapes do
    not fit, and for an output_padding that is not below stride or dilation.
    """
    return _conv_transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """The transpose of `conv3d`: `conv_transpose2d` in three dimensions.  (N, I, D, H, W) -> (N, O, OD, OH, OW)

    weight: (I, O / groups, KD, KH, KW). Raises ValueError for groups or channels that do not fit.
    """
    return _conv_transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation)
