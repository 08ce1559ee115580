"""Dropout layers: in training only, with masks that do not depend on the number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from dtrain.autograd import Tensor
from dtrain.nn.module import Module
from dtrain.ops.dropout import alpha_dropout, dropout, dropout1d, dropout2d, dropout3d, feature_alpha_dropout

__all__ = ["AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout"]


class Dropout(Module):
    """In training, zero elements with probability p and scale the others by 1 / (1 - p) (Srivastava et al., JMLR 2014).

    (*) -> the same. `inplace` is accepted for PyTorch's sake. Raises ValueError for p outside [0, 1].
    """

    function: ClassVar[Callable[..., Any]] = staticmethod(dropout)

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"{type(self).__name__}: p must be in [0, 1], got {p}")
        self.p, self.inplace = p, inplace

    def forward(self, input: Tensor) -> Tensor:
        return self.function(input, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout1d(Dropout):
    """`Dropout` of whole channels.  input: (N, C, L) or (C, L) -> the same

    Raises ValueError for p outside [0, 1] and other dimensions.
    """

    function = staticmethod(dropout1d)


class Dropout2d(Dropout):
    """`Dropout` of whole channels.  input: (N, C, H, W) or (N, C, L) (Tompson et al., arXiv:1411.4280) -> the same

    Raises ValueError for p outside [0, 1] and for fewer than 2 dimensions; others than these warn.
    """

    function = staticmethod(dropout2d)


class Dropout3d(Dropout):
    """`Dropout` of whole channels.  input: (N, C, D, H, W) or (C, D, H, W) -> the same

    Raises ValueError for p outside [0, 1] and for fewer than 2 dimensions; others than these warn.
    """

    function = staticmethod(dropout3d)


class AlphaDropout(Dropout):
    """Dropout to SELU's negative limit, which keeps mean 0 and variance 1 (Klambauer et al., arXiv:1706.02515).

    (*) -> the same. Raises ValueError for p outside [0, 1].
    """

    function = staticmethod(alpha_dropout)


class FeatureAlphaDropout(Dropout):
    """`AlphaDropout` of whole channels.  input: (N, C, ...) -> the same

    Raises ValueError for p outside [0, 1] and for fewer than 2 dimensions.
    """

    function = staticmethod(feature_alpha_dropout)
