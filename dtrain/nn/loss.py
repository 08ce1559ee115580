"""Losses as modules, each of which says what it is for one element; formulas in full are in `dtrain.nn.functional`.

`reduction` of all is "mean" (the default; "averaged" below), "sum" or "none": the element losses themselves. Each call
raises what its function raises: ValueError for another reduction, ValueError or RuntimeError for shapes that do not go
together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dtrain.autograd import Tensor
from dtrain.nn.module import Module
from dtrain.ops.ctc import ctc_loss
from dtrain.ops.loss import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from dtrain.ops.margin_loss import (
    cosine_embedding_loss,
    margin_ranking_loss,
    multi_margin_loss,
    multilabel_margin_loss,
    multilabel_soft_margin_loss,
    triplet_margin_loss,
    triplet_margin_with_distance_loss,
)  # fmt: skip
from dtrain.ops.pointwise_loss import (
    binary_cross_entropy,
    gaussian_nll_loss,
    hinge_embedding_loss,
    huber_loss,
    kl_div,
    l1_loss,
    nll_loss,
    poisson_nll_loss,
    smooth_l1_loss,
    soft_margin_loss,
)  # fmt: skip

__all__ = [
    "BCELoss", "BCEWithLogitsLoss", "CTCLoss", "CosineEmbeddingLoss", "CrossEntropyLoss", "GaussianNLLLoss",
    "HingeEmbeddingLoss", "HuberLoss", "KLDivLoss", "L1Loss", "MSELoss", "MarginRankingLoss",
    "MultiLabelMarginLoss", "MultiLabelSoftMarginLoss", "MultiMarginLoss", "NLLLoss", "PoissonNLLLoss",
    "SmoothL1Loss", "SoftMarginLoss", "TripletMarginLoss", "TripletMarginWithDistanceLoss",
]  # fmt: skip


class CrossEntropyLoss(Module):
    """-log softmax(input)[target], averaged.  input (N, C, ...), target (N, ...) of class numbers -> ()

    weight: (C,) class weights; targets equal to ignore_index count nothing; see `F.cross_entropy`. Raises ValueError
    for shapes that do not fit, IndexError for targets outside [0, C), TypeError for other dtypes.
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

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing)


class CTCLoss(Module):
    """-log of the probability of the targets over all alignments.  log_probs (T, N, C), targets (N, S) -> ()

    See `F.ctc_loss`: lengths in frames and labels, blank, zero_infinity, errors. Raises ValueError for lengths that are
    too large.
    """

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        super().__init__()
        self.blank, self.reduction, self.zero_infinity = blank, reduction, zero_infinity

    def forward(self, log_probs: Tensor, targets: Tensor, input_lengths: Any, target_lengths: Any) -> Tensor:
        return ctc_loss(
            log_probs, targets, input_lengths, target_lengths, self.blank, self.reduction, self.zero_infinity
        )


class MSELoss(Module):
    """(input - target)^2, averaged over all elements.  Two of one shape -> (). Raises ValueError for others."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return mse_loss(input, target, self.reduction)


class BCEWithLogitsLoss(Module):
    """Binary cross-entropy of logistic(input), averaged.  Two tensors of one shape -> ()

    weight multiplies the losses, pos_weight the part of the positive targets; both broadcast. Raises ValueError for
    other shapes.
    """

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean", pos_weight: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)
        self.reduction = reduction

    weight: Tensor | None
    pos_weight: Tensor | None

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(input, target, self.weight, self.reduction, self.pos_weight)


class BCELoss(Module):
    """Binary cross-entropy of probabilities, averaged; see `F.binary_cross_entropy`.  Two tensors of one shape -> ()

    Raises RuntimeError for elements outside [0, 1], ValueError for other shapes.
    """

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.reduction = reduction

    weight: Tensor | None

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return binary_cross_entropy(input, target, weight=self.weight, reduction=self.reduction)


class GaussianNLLLoss(Module):
    """The negative log-likelihood of normal distributions with the means input and variances var.  Three tensors -> ()

    full adds log(2 pi) / 2, eps is the least variance; see `F.gaussian_nll_loss`. Raises ValueError for negative
    variances and shapes that do not fit.
    """

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__()
        self.full = full
        self.eps = eps
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor, var: Tensor | float) -> Tensor:
        return gaussian_nll_loss(input, target, var, full=self.full, eps=self.eps, reduction=self.reduction)


class HingeEmbeddingLoss(Module):
    """x where the target is 1, max(0, margin - x) where it is -1, averaged.  Two tensors of one shape -> ()

    Raises ValueError for shapes that do not broadcast.
    """

    def __init__(self, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__()
        self.margin = margin
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return hinge_embedding_loss(input, target, margin=self.margin, reduction=self.reduction)


class HuberLoss(Module):
    """d^2 / 2 where |d| < delta, else delta (|d| - delta / 2), averaged; d = input - target.

    Two tensors of one shape -> () (Huber, Ann. Math. Stat. 1964). Raises TypeError unless delta is a number.
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__()
        if not isinstance(delta, (int, float)):
            raise TypeError(f"HuberLoss: delta must be a number, got {delta!r} of {type(delta).__name__}")
        self.delta = delta
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return huber_loss(input, target, delta=self.delta, reduction=self.reduction)


class KLDivLoss(Module):
    """t (log t - input), averaged: the divergence of Kullback and Leibler with reduction="batchmean".

    input: log-probabilities, target: probabilities t, or their logarithms with log_target, of one shape -> (). Raises
    ValueError unless they fit.
    """

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__()
        self.log_target = log_target
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return kl_div(input, target, log_target=self.log_target, reduction=self.reduction)


class L1Loss(Module):
    """|input - target|, averaged over all elements.  Two tensors of one shape -> (). Raises ValueError for others."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return l1_loss(input, target, reduction=self.reduction)


class MultiLabelMarginLoss(Module):
    """Margins between the classes that the target lists and the others.  input, target: (N, C) or (C,) -> ()

    See `F.multilabel_margin_loss`. Raises ValueError for other shapes.
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return multilabel_margin_loss(input, target, reduction=self.reduction)


class MultiLabelSoftMarginLoss(Module):
    """Binary cross-entropy with logits, its mean over classes, averaged.  input, target: (N, C) or (C,) -> ()

    Raises ValueError for shapes that do not broadcast.
    """

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.reduction = reduction

    weight: Tensor | None

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return multilabel_soft_margin_loss(input, target, weight=self.weight, reduction=self.reduction)


class MultiMarginLoss(Module):
    """sum over i != t of max(0, margin - x[t] + x[i])^p / C, averaged.  input x: (N, C), target t: (N,) -> ()

    Raises ValueError unless p is 1 or 2.
    """

    def __init__(self, p: int = 1, margin: float = 1.0, weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__()
        self.p = p
        self.margin = margin
        self.register_buffer("weight", weight)
        self.reduction = reduction

    weight: Tensor | None

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return multi_margin_loss(
            input, target, p=self.p, margin=self.margin, weight=self.weight, reduction=self.reduction
        )


class NLLLoss(Module):
    """-input[n, target[n]] of log-probabilities; see `F.nll_loss`.  input (N, C, ...), target (N, ...) -> ()

    Raises ValueError for shapes that do not fit, IndexError for targets outside [0, C).
    """

    def __init__(self, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = reduction

    weight: Tensor | None

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return nll_loss(input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class PoissonNLLLoss(Module):
    """The negative log-likelihood of Poisson distributions, see `F.poisson_nll_loss`.  Two of one shape -> ()

    Raises ValueError for shapes that do not broadcast.
    """

    def __init__(self, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean") -> None:
        super().__init__()
        self.log_input = log_input
        self.full = full
        self.eps = eps
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return poisson_nll_loss(
            input, target, log_input=self.log_input, full=self.full, eps=self.eps, reduction=self.reduction
        )


class SmoothL1Loss(Module):
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2, averaged; d = input - target.

    Two tensors of one shape -> () (Girshick, arXiv:1504.08083). Raises ValueError for other shapes and beta < 0.
    """

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__()
        self.beta = beta
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return smooth_l1_loss(input, target, beta=self.beta, reduction=self.reduction)


class SoftMarginLoss(Module):
    """log(1 + exp(-t x)), averaged; t of 1 and -1.  Two tensors of one shape -> (). Raises ValueError for others."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return soft_margin_loss(input, target, reduction=self.reduction)


class MarginRankingLoss(Module):
    """max(0, margin - t (x1 - x2)), averaged; t of 1 (x1 should be the larger) and -1.  Three of one shape -> ()

    Raises ValueError for shapes that do not broadcast.
    """

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__()
        self.margin, self.reduction = margin, reduction

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        return margin_ranking_loss(input1, input2, target, self.margin, self.reduction)


class CosineEmbeddingLoss(MarginRankingLoss):
    """1 - cos(x1, x2) where the target is 1, max(0, cos(x1, x2) - margin) where it is -1, averaged.

    x1, x2: (N, D) or (D,), target: (N,) or () -> (). Raises ValueError for shapes that do not broadcast.
    """

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        return cosine_embedding_loss(input1, input2, target, self.margin, self.reduction)


class TripletMarginLoss(Module):
    """max(0, d(a, p) - d(a, n) + margin), averaged; d the distance of order p (Balntas et al., BMVC 2016).

    Three tensors (N, D) -> (). swap takes the smaller of d(a, n) and d(p, n). Raises ValueError unless margin > 0.
    """

    def __init__(
        self, margin: float = 1.0, p: float = 2.0, eps: float = 1e-6, swap: bool = False, reduction: str = "mean"
    ) -> None:
        super().__init__()
        if margin <= 0:
            raise ValueError(f"TripletMarginLoss: margin must be greater than 0, got {margin}")
        self.margin, self.p, self.eps, self.swap, self.reduction = margin, p, eps, swap, reduction

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        return triplet_margin_loss(anchor, positive, negative, self.margin, self.p, self.eps, self.swap, self.reduction)


class TripletMarginWithDistanceLoss(Module):
    """`TripletMarginLoss` with another distance, a function of two tensors. Raises ValueError unless margin > 0.

    anchor, positive, negative: (N, D) -> ()
    """

    def __init__(
        self,
        *,
        distance_function: Callable[[Any, Any], Any] | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        if margin <= 0:
            raise ValueError(f"TripletMarginWithDistanceLoss: margin must be greater than 0, got {margin}")
        self.distance_function, self.margin, self.swap, self.reduction = distance_function, margin, swap, reduction

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        return triplet_margin_with_distance_loss(
            anchor, positive, negative, distance_function=self.distance_function, margin=self.margin, swap=self.swap,
            reduction=self.reduction,
        )  # fmt: skip
