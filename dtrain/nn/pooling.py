"""Pooling layers. Sizes are a number, or one for each dimension of the image; without N, images are (C, *S)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from dtrain.autograd import Tensor
from dtrain.nn.module import Module
from dtrain.ops import max_pooling, pooling
from dtrain.ops.geometry import numbers

__all__ = [
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d", "FractionalMaxPool2d", "FractionalMaxPool3d",
    "LPPool1d", "LPPool2d", "LPPool3d", "MaxPool1d", "MaxPool2d", "MaxPool3d", "MaxUnpool1d", "MaxUnpool2d",
    "MaxUnpool3d",
]  # fmt: skip


class _Windows(Module):
    """What layers with windows that slide have in common."""

    function: ClassVar[Callable[..., Any]]

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, kernel_size if stride is None else stride, padding

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _MaxPool(_Windows):
    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        self.dilation, self.return_indices, self.ceil_mode = dilation, return_indices, ceil_mode

    def forward(self, input: Tensor) -> Any:
        return type(self).function(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )


class MaxPool1d(_MaxPool):
    """The maximum over windows: `MaxPool2d` in one dimension.  (N, C, L) -> (N, C, OL)

    Raises ValueError for other dimensions, a window larger than the padded input, and padding above half of it.
    """

    function = staticmethod(max_pooling.max_pool1d)


class MaxPool2d(_MaxPool):
    """The maximum over windows.  (N, C, H, W) -> (N, C, OH, OW); stride defaults to kernel_size.

    OH = (H + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1, rounded up with ceil_mode. return_indices: also
    where the maxima are, for `MaxUnpool2d`. Raises ValueError for other dimensions, a window larger than the padded
    input, and padding above half of it.
    """

    function = staticmethod(max_pooling.max_pool2d)


class MaxPool3d(_MaxPool):
    """The maximum over windows: `MaxPool2d` in three dimensions.  (N, C, D, H, W) -> (N, C, OD, OH, OW)

    Raises ValueError for other dimensions, a window larger than the padded input, and padding above half of it.
    """

    function = staticmethod(max_pooling.max_pool3d)


class _MaxUnpool(_Windows):
    def forward(self, input: Tensor, indices: Tensor, output_size: Any = None) -> Tensor:
        return type(self).function(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class MaxUnpool1d(_MaxUnpool):
    """Maxima where they were: `MaxUnpool2d` in one dimension.  (N, C, L) -> (N, C, OL)

    Raises as `MaxUnpool2d` does: ValueError, IndexError.
    """

    function = staticmethod(max_pooling.max_unpool1d)


class MaxUnpool2d(_MaxUnpool):
    """The maxima of `MaxPool2d` where they were, zeros elsewhere.  (N, C, H, W) -> (N, C, OH, OW)

    OH = (H - 1) stride + kernel_size - 2 padding. Called with the indices, and output_size where OH is another one.
    Raises ValueError for indices of another shape and an impossible output_size, IndexError for indices outside of the
    image.
    """

    function = staticmethod(max_pooling.max_unpool2d)


class MaxUnpool3d(_MaxUnpool):
    """Maxima where they were: `MaxUnpool2d` in three dimensions.  (N, C, D, H, W) -> (N, C, OD, OH, OW)

    Raises as `MaxUnpool2d` does: ValueError, IndexError.
    """

    function = staticmethod(max_pooling.max_unpool3d)


class AvgPool1d(_Windows):
    """The mean over windows: `AvgPool2d` in one dimension.  (N, C, L) -> (N, C, OL)

    Raises ValueError for other dimensions, a window larger than the padded input, and padding above half of it.
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    def forward(self, input: Tensor) -> Tensor:
        return pooling.avg_pool1d(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )


class _AvgPool(_Windows):
    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        self.ceil_mode, self.count_include_pad, self.divisor_override = ceil_mode, count_include_pad, divisor_override

    def forward(self, input: Tensor) -> Tensor:
        return type(self).function(
            input, self.kernel_size, self.stride, self.padding,
            self.ceil_mode, self.count_include_pad, self.divisor_override,
        )  # fmt: skip


class AvgPool2d(_AvgPool):
    """The mean over windows.  (N, C, H, W) -> (N, C, OH, OW); stride defaults to kernel_size.

    count_include_pad: whether padding counts as zeros. divisor_override: divide by this instead. Raises ValueError for
    other dimensions, a window larger than the padded input, and padding above half of it; and for a divisor_override of
    0.
    """

    function = staticmethod(pooling.avg_pool2d)


class AvgPool3d(_AvgPool):
    """The mean over windows: `AvgPool2d` in three dimensions.  (N, C, D, H, W) -> (N, C, OD, OH, OW)

    Raises ValueError for other dimensions, a window larger than the padded input, and padding above half of it.
    """

    function = staticmethod(pooling.avg_pool3d)


class _LPPool(Module):
    function: ClassVar[Callable[..., Any]]

    def __init__(self, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> None:
        super().__init__()
        self.norm_type, self.kernel_size, self.stride, self.ceil_mode = norm_type, kernel_size, stride, ceil_mode

    def forward(self, input: Tensor) -> Tensor:
        return type(self).function(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)

    def extra_repr(self) -> str:
        return f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}"


class LPPool1d(_LPPool):
    """The p-norm over windows: `LPPool2d` in one dimension.  (N, C, L) -> (N, C, OL)

    Raises as `LPPool2d` does: ValueError.
    """

    function = staticmethod(pooling.lp_pool1d)


class LPPool2d(_LPPool):
    """(sum over the window of x**p)**(1 / p), p = norm_type.  (N, C, H, W) -> (N, C, OH, OW)

    Raises ValueError for other dimensions, a window larger than the image, and norm_type 0.
    """

    function = staticmethod(pooling.lp_pool2d)


class LPPool3d(_LPPool):
    """The p-norm over windows: `LPPool2d` in three dimensions.  (N, C, D, H, W) -> (N, C, OD, OH, OW)

    Raises as `LPPool2d` does: ValueError.
    """

    function = staticmethod(pooling.lp_pool3d)


class _Adaptive(Module):
    function: ClassVar[Callable[..., Any]]

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Any:
        return type(self).function(input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_Adaptive):
    """Means over output_size bins that cover the sequence.  (N, C, L) -> (N, C, output_size)

    N may be left out. Raises ValueError for other dimensions, and for bins below 0.
    """

    function = staticmethod(pooling.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_Adaptive):
    """Means over output_size bins that cover the image; None keeps a size.  (N, C, H, W) -> (N, C, *output_size)

    N may be left out. Raises ValueError for other dimensions, and for bins below 0.
    """

    function = staticmethod(pooling.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(_Adaptive):
    """Means over output_size bins that cover the volume.  (N, C, D, H, W) -> (N, C, *output_size)

    N may be left out. Raises ValueError for other dimensions, and for bins below 0.
    """

    function = staticmethod(pooling.adaptive_avg_pool3d)


class _AdaptiveMaxPool(_Adaptive):
    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices

    def forward(self, input: Tensor) -> Any:
        return type(self).function(input, self.output_size, self.return_indices)


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """Maxima over output_size bins that cover the sequence.  (N, C, L) -> (N, C, output_size)

    N may be left out. Raises ValueError for other dimensions, and for bins below 0.
    """

    function = staticmethod(max_pooling.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """Maxima over output_size bins that cover the image; None keeps a size.  (N, C, H, W) -> (N, C, *output_size)

    return_indices: also where the maxima are. N may be left out. Raises ValueError for other dimensions, and for bins
    below 0.
    """

    function = staticmethod(max_pooling.adaptive_max_pool2d)


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """Maxima over output_size bins that cover the volume.  (N, C, D, H, W) -> (N, C, *output_size)

    N may be left out. Raises ValueError for other dimensions, and for bins below 0.
    """

    function = staticmethod(max_pooling.adaptive_max_pool3d)


class _FractionalMaxPool(Module):
    function: ClassVar[Callable[..., Any]]
    dimensions: ClassVar[int]
    _random_samples: Tensor | None

    def __init__(
        self,
        kernel_size: Any,
        output_size: Any = None,
        output_ratio: Any = None,
        return_indices: bool = False,
        _random_samples: Any = None,
    ) -> None:
        super().__init__()
        name, d = type(self).__name__, self.dimensions
        self.kernel_size, self.return_indices = numbers("kernel_size", kernel_size, d, 1), return_indices
        self.register_buffer("_random_samples", _random_samples)
        if (output_size is None) == (output_ratio is None):
            raise ValueError(f"{name} needs an output_size or an output_ratio, and not both")
        self.output_size = None if output_size is None else numbers("output_size", output_size, d, 1)
        ratios = output_ratio if isinstance(output_ratio, (list, tuple)) else (output_ratio,) * d
        if output_ratio is not None and (len(ratios) != d or not all(0 < r < 1 for r in ratios)):
            raise ValueError(f"{name}: output_ratio must be in (0, 1), one or {d} of them, got {output_ratio}")
        self.output_ratio = None if output_ratio is None else tuple(ratios)

    def forward(self, input: Tensor) -> Any:
        return type(self).function(
            input, self.kernel_size, self.output_size, self.output_ratio, self.return_indices, self._random_samples
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, output_size={self.output_size}, output_ratio={self.output_ratio}"


class FractionalMaxPool2d(_FractionalMaxPool):
    """Maxima over regions at random distances (Graham, arXiv:1412.6071).  (N, C, H, W) -> (N, C, *output_size)

    output_ratio in (0, 1): instead of output_size, of the input's size. The regions are drawn anew at each call, in
    evaluation too, unless _random_samples has them. Raises ValueError for options that do not fit.
    """

    dimensions = 2
    function = staticmethod(max_pooling.fractional_max_pool2d)


class FractionalMaxPool3d(_FractionalMaxPool):
    """`FractionalMaxPool2d` in three dimensions.  (N, C, D, H, W) -> (N, C, *output_size)

    Raises ValueError unless one of output_size and output_ratio is given, and for regions that do not fit.
    """

    dimensions = 3
    function = staticmethod(max_pooling.fractional_max_pool3d)
