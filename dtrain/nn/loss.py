"""Losses as modules."""

from __future__ import annotations

from dtrain.autograd import Tensor
from dtrain.nn.module import Module
from dtrain.ops.loss import binary_cross_entropy_with_logits, cross_entropy, mse_loss

__all__ = ["BCEWithLogitsLoss", "CrossEntropyLoss", "MSELoss"]


class CrossEntropyLoss(Module):
    """-log softmax(input)[target], averaged.  input (N, C, ...), target (N, ...) of class numbers -> ()

    weight: (C,) class weights; targets equal to ignore_index count nothing; see `F.cross_entropy`.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=True)
        self.ignore_index, self.reduction, self.label_smoothing = ignore_index, reduction, label_smoothing

    weight: Tensor | None

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002
        return cross_entropy(input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing)


class MSELoss(Module):
    """(input - target)^2, averaged over all elements.  Two tensors of one shape -> ()"""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002
        return mse_loss(input, target, self.reduction)


class BCEWithLogitsLoss(Module):
    """Binary cross-entropy of logistic(input), averaged.  Two tensors of one shape -> ()

    weight multiplies the losses, pos_weight the part of the positive targets; both broadcast.
    """

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean", pos_weight: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)
        self.reduction = reduction

    weight: Tensor | None
    pos_weight: Tensor | None

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002
        return binary_cross_entropy_with_logits(input, target, self.weight, self.reduction, self.pos_weight)
