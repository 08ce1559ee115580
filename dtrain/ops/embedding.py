"""Look-up in a table of vectors."""

from __future__ import annotations

from typing import Any

from dtrain.autograd import op
from dtrain.backend import Array, backend_of

__all__ = ["embedding"]


@op
def embedding(input: Any, weight: Any, padding_idx: int | None = None) -> Any:  # noqa: A002
    """weight[input]. input: (...) of row numbers, weight: (V, D) -> (..., D)

    The row padding_idx gets no gradient. Raises IndexError for a row outside [0, V).
    """
    index = input
    if index.dtype.kind not in "iu":
        raise TypeError(f"embedding needs row numbers of an integer dtype, got {index.dtype}")
    rows = len(weight)
    if index.size and (index.min() < 0 or index.max() >= rows):
        wrong = index[(index < 0) | (index >= rows)].ravel()[0]
        raise IndexError(f"embedding: row {int(wrong)} is out of range for a table of {rows} rows")

    def pullback(g: Array) -> Array:
        gw = backend_of(weight).embedding_grad(g.reshape(-1, weight.shape[1]), index.reshape(-1), rows)
        if padding_idx is not None:
            gw[padding_idx] = 0
        return gw

    return weight[index], (None, pullback)
