"""Softmax and its kin as layers."""

from __future__ import annotations

from dtrain.autograd import Tensor
from dtrain.nn.module import Module
from dtrain.ops.activation import log_softmax, softmax, softmin

__all__ = ["LogSoftmax", "Softmax", "Softmax2d", "Softmin"]


def _implicit(dim: int | None, x: Tensor) -> int:
    """dim; without one 0 for tensors of 0, 1 or 3 dimensions, else 1, as in PyTorch."""
    return dim if dim is not None else int(x.ndim not in (0, 1, 3))


class Softmax(Module):
    """exp(x) / sum(exp(x)) along dim, by default 0 of 0, 1 or 3 dimensions, else 1.  (...) -> the same

    Raises IndexError for a dimension that the input does not have.
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return softmax(input, _implicit(self.dim, input))

    def extra_repr(self) -> str:
        return f"dim={self.dim!r}"


class LogSoftmax(Module):
    """x - log(sum(exp(x))) along dim, as of `Softmax`.  (...) -> the same. Raises IndexError for no such dim."""

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return log_softmax(input, _implicit(self.dim, input))

    def extra_repr(self) -> str:
        return f"dim={self.dim!r}"


class Softmin(Module):
    """exp(-x) / sum(exp(-x)) along dim, as of `Softmax`.  (...) -> the same. Raises IndexError for no such dim."""

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return softmin(input, _implicit(self.dim, input))

    def extra_repr(self) -> str:
        return f"dim={self.dim!r}"


class Softmax2d(Module):
    """`Softmax` over channels.  (N, C, H, W) or (C, H, W) -> the same. Raises ValueError for other dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim not in (3, 4):
            raise ValueError(f"Softmax2d takes (N, C, H, W) or (C, H, W), got shape {input.shape}")
        return softmax(input, -3)
