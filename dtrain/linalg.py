"""Linear algebra, under the names of `torch.linalg`."""

from __future__ import annotations

from typing import Any

from dtrain.ops import diagonals, products
from dtrain.ops.decompositions import (
    cholesky,
    det,
    eigh,
    eigvalsh,
    inv,
    matrix_power,
    qr,
    slogdet,
    solve,
    svd,
    svdvals,
)  # fmt: skip
from dtrain.ops.linear import matmul
from dtrain.ops.products import multi_dot
from dtrain.ops.solvers import (
    cholesky_ex,
    cond,
    inv_ex,
    lstsq,
    matrix_exp,
    matrix_rank,
    pinv,
    solve_ex,
    solve_triangular,
    tensorinv,
    tensorsolve,
    vecdot,
)  # fmt: skip
from dtrain.ops.statistics import matrix_norm, vector_norm

__all__ = [
    "cholesky", "cholesky_ex", "cond", "cross", "det", "diagonal", "eigh", "eigvalsh", "inv", "inv_ex", "lstsq",
    "matmul", "matrix_exp", "matrix_norm", "matrix_power", "matrix_rank", "multi_dot", "norm", "pinv", "qr",
    "slogdet", "solve", "solve_ex", "solve_triangular", "svd", "svdvals", "tensorinv", "tensorsolve", "vander",
    "vecdot", "vector_norm",
]  # fmt: skip


def cross(input: Any, other: Any, *, dim: int = -1) -> Any:
    """The cross products of vectors of three elements along dim; the other dimensions broadcast."""
    return products.cross(input, other, dim)


def diagonal(A: Any, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """The diagonals of matrices, as a new last dimension."""
    return diagonals.diagonal(A, offset, dim1, dim2)


def vander(x: Any, *, N: int | None = None) -> Any:
    """The powers 0 to N - 1 of the elements of vectors: (..., n) -> (..., n, N); N is n unless given."""
    if not x.ndim or N is not None and N <= 1:
        raise ValueError(f"vander needs vectors and N > 1, got shape {x.shape} and N {N}")
    return diagonals.powers(x, x.shape[-1] if N is None else N)


def norm(A: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """`vector_norm` of all elements or over one dim, `matrix_norm` of matrices or over two dims, by order."""
    if ord is None:
        return vector_norm(A, 2, dim, keepdim, dtype=dtype)
    dims = dim if dim is None or isinstance(dim, int) else tuple(dim)
    if isinstance(dims, tuple) and len(dims) == 2 or dims is None and (A.ndim == 2 or isinstance(ord, str)):
        return matrix_norm(A, ord, (-2, -1) if dims is None else dims, keepdim, dtype=dtype)
    if isinstance(ord, str) or dims is None and A.ndim != 1:
        raise ValueError(f"norm of order {ord!r} needs a vector, a matrix, or dims; got shape {A.shape} and dim {dim}")
    return vector_norm(A, ord, dims, keepdim, dtype=dtype)
