"""Padding layers: elements added before and behind in the last dimensions. A batch dimension may be left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from dtrain.autograd import Tensor
from dtrain.nn.module import Module
from dtrain.ops.padding import pad

__all__ = [
    "CircularPad1d", "CircularPad2d", "CircularPad3d", "ConstantPad1d", "ConstantPad2d", "ConstantPad3d",
    "ReflectionPad1d", "ReflectionPad2d", "ReflectionPad3d", "ReplicationPad1d", "ReplicationPad2d",
    "ReplicationPad3d", "ZeroPad1d", "ZeroPad2d", "ZeroPad3d",
]  # fmt: skip


class _Pad(Module):
    dimensions: ClassVar[int]
    mode: ClassVar[str] = "constant"
    value: float = 0.0

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        sides = 2 * self.dimensions
        self.padding = (padding,) * sides if isinstance(padding, int) else tuple(padding)
        if len(self.padding) != sides:
            raise ValueError(f"{type(self).__name__}: padding must be a number or {sides} of them, got {padding}")

    def forward(self, input: Tensor) -> Tensor:
        return pad(input, self.padding, self.mode, self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}" if "value" in self.__dict__ else f"{self.padding}"


class ZeroPad1d(_Pad):
    """Zeros around (N, C, L) -> (N, C, L + left + right)

    padding: a number, or (left, right). See `F.pad`. Negative padding crops. Raises ValueError where nothing is left,
    and for too few dimensions.
    """

    dimensions = 1


class ZeroPad2d(_Pad):
    """Zeros around (N, C, H, W) -> (N, C, H + top + bottom, W + left + right)

    padding: a number, or (left, right, top, bottom). See `F.pad`. Negative padding crops. Raises ValueError where
    nothing is left, and for too few dimensions.
    """

    dimensions = 2


class ZeroPad3d(_Pad):
    """Zeros around (N, C, D, H, W) -> (N, C, D + front + back, H + top + bottom, W + left + right)

    padding: a number, or (left, right, top, bottom, front, back). See `F.pad`. Negative padding crops. Raises
    ValueError where nothing is left, and for too few dimensions.
    """

    dimensions = 3


class ConstantPad1d(_Pad):
    """A value around (N, C, L) -> (N, C, L + left + right)

    padding: a number, or (left, right). See `F.pad`. Negative padding crops. Raises ValueError where nothing is left,
    and for too few dimensions.
    """

    dimensions = 1

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value


class ConstantPad2d(_Pad):
    """A value around (N, C, H, W) -> (N, C, H + top + bottom, W + left + right)

    padding: a number, or (left, right, top, bottom). See `F.pad`. Negative padding crops. Raises ValueError where
    nothing is left, and for too few dimensions.
    """

    dimensions = 2

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value


class ConstantPad3d(_Pad):
    """A value around (N, C, D, H, W) -> (N, C, D + front + back, H + top + bottom, W + left + right)

    padding: a number, or (left, right, top, bottom, front, back). See `F.pad`. Negative padding crops. Raises
    ValueError where nothing is left, and for too few dimensions.
    """

    dimensions = 3

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value


class ReflectionPad1d(_Pad):
    """The elements reflected at the edge, around (N, C, L) -> (N, C, L + left + right)

    padding: a number, or (left, right). See `F.pad`. Raises ValueError for other dimensions, and for padding of a whole
    dimension or more.
    """

    dimensions = 1
    mode = "reflect"


class ReflectionPad2d(_Pad):
    """The elements reflected at the edge, around (N, C, H, W) -> (N, C, H + top + bottom, W + left + right)

    padding: a number, or (left, right, top, bottom). See `F.pad`. Raises ValueError for other dimensions, and for
    padding of a whole dimension or more.
    """

    dimensions = 2
    mode = "reflect"


class ReflectionPad3d(_Pad):
    """The elements reflected at the edge, around (N, C, D, H, W).

    -> (N, C, D + front + back, H + top + bottom, W + left + right).
    padding: a number, or (left, right, top, bottom, front, back). See `F.pad`. Raises ValueError for other dimensions,
    and for padding of a whole dimension or more.
    """

    dimensions = 3
    mode = "reflect"


class ReplicationPad1d(_Pad):
    """The edge repeated around (N, C, L) -> (N, C, L + left + right)

    padding: a number, or (left, right). See `F.pad`. Raises ValueError for other dimensions.
    """

    dimensions = 1
    mode = "replicate"


class ReplicationPad2d(_Pad):
    """The edge repeated around (N, C, H, W) -> (N, C, H + top + bottom, W + left + right)

    padding: a number, or (left, right, top, bottom). See `F.pad`. Raises ValueError for other dimensions.
    """

    dimensions = 2
    mode = "replicate"


class ReplicationPad3d(_Pad):
    """The edge repeated around (N, C, D, H, W) -> (N, C, D + front + back, H + top + bottom, W + left + right)

    padding: a number, or (left, right, top, bottom, front, back). See `F.pad`. Raises ValueError for other dimensions.
    """

    dimensions = 3
    mode = "replicate"


class CircularPad1d(_Pad):
    """The elements of the other end around (N, C, L) -> (N, C, L + left + right)

    padding: a number, or (left, right). See `F.pad`. Raises ValueError for other dimensions, and for more padding than
    a dimension has elements.
    """

    dimensions = 1
    mode = "circular"


class CircularPad2d(_Pad):
    """The elements of the other end around (N, C, H, W) -> (N, C, H + top + bottom, W + left + right)

    padding: a number, or (left, right, top, bottom). See `F.pad`. Raises ValueError for other dimensions, and for more
    padding than a dimension has elements.
    """

    dimensions = 2
    mode = "circular"


class CircularPad3d(_Pad):
    """The elements of the other end around (N, C, D, H, W).

    -> (N, C, D + front + back, H + top + bottom, W + left + right).
    padding: a number, or (left, right, top, bottom, front, back). See `F.pad`. Raises ValueError for other dimensions,
    and for more padding than a dimension has elements.
    """

    dimensions = 3
    mode = "circular"
