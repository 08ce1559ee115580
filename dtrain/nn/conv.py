"""Convolution layers, and transposed ones."""

from __future__ import annotations

from typing import Any, ClassVar

from dtrain.autograd import Tensor
from dtrain.nn.linear import init_like_linear
from dtrain.nn.module import Module
from dtrain.nn.parameter import Parameter
from dtrain.ops import conv
from dtrain.ops.creation import empty
from dtrain.ops.geometry import Sizes, numbers
from dtrain.ops.padding import pad

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]

_PADDINGS = ("zeros", "reflect", "replicate", "circular")


class _Conv(Module):
    """What convolutions and transposed ones of any number of dimensions have in common: sizes and parameters."""

    dimensions: ClassVar[int]
    transposed: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        output_padding: Any,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        d = self.dimensions
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}")
        if padding_mode not in (_PADDINGS[:1] if self.transposed else _PADDINGS):
            allowed = "'zeros'" if self.transposed else f"one of {_PADDINGS}"
            raise ValueError(f"{type(self).__name__}: padding_mode must be {allowed}, got {padding_mode!r}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = numbers("kernel_size", kernel_size, d, 1)
        self.stride, self.dilation = numbers("stride", stride, d, 1), numbers("dilation", dilation, d, 1)
        self.output_padding, self.padding_mode = numbers("output_padding", output_padding, d, 0), padding_mode
        if isinstance(padding, str):
            if padding not in ("same", "valid") or padding == "same" and set(self.stride) != {1}:
                raise ValueError(
                    f"padding must be numbers, 'valid', or 'same' with stride 1; got {padding!r}, {stride}"
                )
            self.padding: Any = padding
        else:
            self.padding = numbers("padding", padding, d, 0)
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        self.weight = Parameter(empty(first, second // groups, *self.kernel_size, device=device, dtype=dtype))
        self.bias = Parameter(empty(out_channels, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights again."""
        init_like_linear(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        x, padding = input, self.padding
        if self.padding_mode != "zeros":
            x, padding = pad(x, self._borders(), self.padding_mode), 0
        function = getattr(conv, f"conv{self.dimensions}d")
        return function(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def _borders(self) -> list[int]:
        """The padding as `F.pad` takes it: (before, behind) of the last dimension, of the one before it..."""
        if self.padding == "valid":
            return [0, 0] * self.dimensions
        if self.padding != "same":
            return [p for p in reversed(self.padding) for _ in range(2)]
        total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        return [n for t in reversed(total) for n in (t // 2, t - t // 2)]

    def extra_repr(self) -> str:
        d = self.dimensions
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        usual = {
            "padding": (0,) * d, "dilation": (1,) * d, "output_padding": (0,) * d, "groups": 1, "bias": True,
            "padding_mode": "zeros",
        }  # fmt: skip
        for name, value in usual.items():
            given = self.bias is not None if name == "bias" else getattr(self, name)
            text += "" if given == value else f", {name}={given}"
        return text


class _Forward(_Conv):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, 0, groups, bias, padding_mode, device,
            dtype,
        )  # fmt: skip


class _Transposed(_Conv):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if isinstance(padding, str):
            raise ValueError(f"{type(self).__name__}: padding must be numbers, got {padding!r}")
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, output_padding, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        """output_size: sizes of the image that comes out, where several are possible; output_padding otherwise."""
        extra = self.output_padding
        if output_size is not None:
            size = input.shape[-self.dimensions :]
            extra = _output_padding(size, output_size, self.kernel_size, self.stride, self.padding, self.dilation)
        function = getattr(conv, f"conv_transpose{self.dimensions}d")
        return function(input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation)


def _output_padding(
    size: Sizes, output_size: Any, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Sizes:
    """The output_padding with which a transposed convolution of images of `size` gives images of `output_size`.

    output_size: a number for each dimension; those of N and C may stand before them. Raises ValueError for sizes
    that no output_padding gives.
    """
    dims = len(size)
    wanted = (output_size,) * dims if isinstance(output_size, int) else tuple(output_size)
    if len(wanted) in (dims + 1, dims + 2):
        wanted = wanted[-dims:]
    least = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + 1
        for n, s, p, d, k in zip(size, stride, padding, dilation, kernel, strict=True)
    )
    if len(wanted) != dims or any(not lo <= w < lo + s for w, lo, s in zip(wanted, least, stride, strict=True)):
        most = tuple(lo + s - 1 for lo, s in zip(least, stride, strict=True))
        raise ValueError(f"output_size {output_size} is not possible for images of {size}; choose {least} to {most}")
    return tuple(w - lo for w, lo in zip(wanted, least, strict=True))


class Conv1d(_Forward):
    """Cross-correlation of sequences: `Conv2d` in one dimension.  (N, in_channels, L) -> (N, out_channels, OL)

    weight: (out_channels, in_channels / groups, K). Raises ValueError for groups that do not divide the channels,
    another number of channels, and a kernel larger than the padded input.
    """

    dimensions = 1


class Conv2d(_Forward):
    """Cross-correlation of images.  (N, in_channels, H, W) or (in_channels, H, W) -> (N, out_channels, OH, OW)

    OH = (H + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1; the formula is with `F.conv2d`. Options are a
    number, or one for each dimension. weight: (out_channels, in_channels / groups, KH, KW), bias: (out_channels,);
    both start uniform on [-1 / sqrt(n), 1 / sqrt(n)), n = in_channels / groups * KH * KW. padding: numbers, "valid" (0)
    or "same" (the size stays; stride 1). padding_mode: "zeros", "reflect", "replicate" or "circular", see `F.pad`.
    Raises ValueError for options that do not fit.
    """

    dimensions = 2


class Conv3d(_Forward):
    """Cross-correlation of volumes: `Conv2d` in three dimensions.  (N, I, D, H, W) -> (N, O, OD, OH, OW)

    weight: (out_channels, in_channels / groups, KD, KH, KW). Raises ValueError for groups that do not divide the
    channels, another number of channels, and a kernel larger than the padded input.
    """

    dimensions = 3


class ConvTranspose1d(_Transposed):
    """The transpose of `Conv1d`: `ConvTranspose2d` in one dimension.  (N, in_channels, L) -> (N, out_channels, OL)

    weight: (in_channels, out_channels / groups, K). Raises ValueError for groups that do not divide the channels, and
    for another number of channels.
    """

    dimensions = 1


class ConvTranspose2d(_Transposed):
    """The transpose of `Conv2d` as a linear map.  (N, in_channels, H, W) -> (N, out_channels, OH, OW)

    OH = (H - 1) stride - 2 padding + dilation (kernel_size - 1) + output_padding + 1. weight: (in_channels,
    out_channels / groups, KH, KW), bias: (out_channels,); both start uniform on [-1 / sqrt(n), 1 / sqrt(n)),
    n = out_channels / groups * KH * KW. Called with output_size, it chooses output_padding so that images of that
    size come out. Raises ValueError for options that do not fit.
    """

    dimensions = 2


class ConvTranspose3d(_Transposed):
    """The transpose of `Conv3d`: `ConvTranspose2d` in three dimensions.  (N, I, D, H, W) -> (N, O, OD, OH, OW)

    weight: (in_channels, out_channels / groups, KD, KH, KW). Raises ValueError for groups that do not divide the
    channels, and for another number of channels.
    """

    dimensions = 3
