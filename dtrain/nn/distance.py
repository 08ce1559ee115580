"""Distances and similarities as layers."""

from __future__ import annotations

from dtrain.autograd import Tensor
from dtrain.nn.module import Module
from dtrain.ops.distances import cosine_similarity, pairwise_distance

__all__ = ["CosineSimilarity", "PairwiseDistance"]


class CosineSimilarity(Module):
    """x1 x2 / (max(|x1|, eps) max(|x2|, eps)), summed over dim.  Two tensors that broadcast -> theirs without dim

    Raises ValueError where they do not, IndexError for no such dim.
    """

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return cosine_similarity(x1, x2, self.dim, self.eps)


class PairwiseDistance(Module):
    """The norm of order p of x1 - x2 + eps over the last dimension.  (N, D) or (D,), twice -> (N,) or ()

    keepdim leaves a last dimension of one. Raises ValueError for shapes that do not broadcast.
    """

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        super().__init__()
        self.norm, self.eps, self.keepdim = p, eps, keepdim

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return pairwise_distance(x1, x2, self.norm, self.eps, self.keepdim)
