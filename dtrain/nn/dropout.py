"""Dropout layers."""

from __future__ import annotations

from dtrain.autograd import Tensor
from dtrain.nn.module import Module
from dtrain.ops.dropout import dropout

__all__ = ["Dropout"]


class Dropout(Module):
    """In training, zero elements with probability p and scale the others by 1 / (1 - p)."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p must be in [0, 1], got {p}")
        self.p = p

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return dropout(input, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"
