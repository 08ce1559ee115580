"""Layers that change shapes."""

from __future__ import annotations

from collections.abc import Sequence

from dtrain.autograd import Tensor
from dtrain.nn.module import Module
from dtrain.ops.rearranging import unflatten
from dtrain.ops.shape import flatten

__all__ = ["Flatten", "Unflatten"]


class Flatten(Module):
    """Dimensions start_dim to end_dim (inclusive) made one.  (N, C, H, W) -> (N, C * H * W)

    Raises ValueError where end_dim comes before start_dim.
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:
        return flatten(input, self.start_dim, self.end_dim)


class Unflatten(Module):
    """Dimension dim as several of unflattened_size, one of which may be -1.  (*, n, *) -> (*, *unflattened_size, *)

    Raises ValueError for sizes that do not make n, IndexError for no such dim.
    """

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, input: Tensor) -> Tensor:
        return unflatten(input, self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
