"""Layers that change shapes."""

from __future__ import annotations

from dtrain.autograd import Tensor
from dtrain.nn.module import Module
from dtrain.ops.shape import flatten

__all__ = ["Flatten"]


class Flatten(Module):
    """Dimensions start_dim to end_dim (inclusive) made one.  (N, C, H, W) -> (N, C * H * W)"""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return flatten(input, self.start_dim, self.end_dim)
