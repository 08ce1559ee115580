"""Solutions of linear equations, exact and in the least-squares sense, ranks and functions of matrices, in batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dtrain.autograd import Tensor, op
from dtrain.backend.halves import finfo
from dtrain.ops.arithmetic import where
from dtrain.ops.decompositions import _again, _lapack, _matrices, _solve, _turned, cholesky, eigh, inv, solve, svdvals
from dtrain.ops.diagonals import tril, triu
from dtrain.ops.dtypes import plain
from dtrain.ops.linear import matmul
from dtrain.ops.rearranging import movedim
from dtrain.ops.shape import unsqueeze
from dtrain.ops.statistics import matrix_norm

__all__ = [
    "CholeskyEx", "InvEx", "LeastSquares", "SolveEx", "cholesky_ex", "cholesky_inverse", "cholesky_solve", "cond",
    "inv_ex", "lstsq", "matrix_exp", "matrix_rank", "pinv", "pinverse", "solve_ex", "solve_triangular", "tensorinv",
    "tensorsolve", "vecdot",
]  # fmt: skip


def solve_triangular(A: Any, B: Any, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    """X with A X = B (X A = B unless left). A: (..., n, n), of which one triangle is read; B: (..., n, k)

    unitriangular: the diagonal is taken for ones. Raises ValueError for shapes that do not fit.
    """
    _matrices("solve_triangular", A)
    if B.ndim < 2 or B.shape[-2 if left else -1] != A.shape[-1]:
        raise ValueError(f"solve_triangular: A of shape {A.shape} and B of shape {B.shape} do not fit")
    A = triu(A, int(unitriangular)) if upper else tril(A, -int(unitriangular))
    if unitriangular:
        A = A + Tensor(np.eye(A.shape[-1], dtype=A.dtype))
    return _solve(A, B) if left else _solve(A.mT, B.mT).mT


def cholesky_solve(input: Any, L: Any, upper: bool = False) -> Any:  # noqa: A002
    """X with L L^T X = input (L^T L X = input if upper).  input: (..., n, k), L: (..., n, n)"""
    _matrices("cholesky_solve", L)
    if input.ndim < 2 or input.shape[-2] != L.shape[-1]:
        raise ValueError(f"cholesky_solve: input of shape {input.shape} and a factor of shape {L.shape} do not fit")
    low = triu(L).mT if upper else tril(L)
    return _solve(low.mT, _solve(low, input))


def cholesky_inverse(L: Any, upper: bool = False) -> Any:
    """The inverse of L L^T (of L^T L if upper)."""
    _matrices("cholesky_inverse", L)
    low = triu(L).mT if upper else tril(L)
    inverse = inv(low)
    return matmul(inverse.mT, inverse)


# -- with what went wrong, instead of an error --------------------------------------------------------


class InvEx(NamedTuple):
    """What `inv_ex` returns."""

    inverse: Any
    info: Any


class CholeskyEx(NamedTuple):
    """What `cholesky_ex` returns."""

    L: Any
    info: Any


class SolveEx(NamedTuple):
    """What `solve_ex` returns."""

    result: Any
    info: Any


def _done(A: Any) -> Tensor:
    return Tensor(np.zeros(A.shape[:-2], np.int32))


def inv_ex(A: Any, *, check_errors: bool = False) -> InvEx:
    """(the inverses, zeros). Raises RuntimeError for a singular matrix, with check_errors or without."""
    return InvEx(inv(A), _done(A))


def cholesky_ex(A: Any, *, upper: bool = False, check_errors: bool = False) -> CholeskyEx:
    """(L, zeros). Raises RuntimeError for a matrix that is not positive, with check_errors or without."""
    return CholeskyEx(cholesky(A, upper), _done(A))


def solve_ex(A: Any, B: Any, *, left: bool = True, check_errors: bool = False) -> SolveEx:
    """(X, zeros). Raises RuntimeError for a singular matrix, with check_errors or without."""
    return SolveEx(solve(A, B, left=left), _done(A))


# -- singular values ----------------------------------------------------------------------------------


def _sizes(A: Any, hermitian: bool) -> Any:
    """The singular values of A; of symmetric matrices the absolute eigenvalues."""
    return abs(eigh(A).eigenvalues) if hermitian else svdvals(A)


def _tolerance(A: Any, sizes: np.ndarray, atol: Any, rtol: Any) -> np.ndarray:
    """The largest singular value (..., 1) that counts as zero: max(atol, rtol * the largest one)."""
    absolute, relative = (None if t is None else np.asarray(getattr(t, "array", t)) for t in (atol, rtol))
    if relative is None:
        usual = max(A.shape[-2:]) * float(finfo(A.dtype).eps)
        relative = np.where(absolute > 0, 0.0, usual) if absolute is not None else np.asarray(usual)
    largest = sizes.max(-1, initial=0)
    return np.maximum(0 if absolute is None else absolute, relative * largest)[..., None]


def matrix_rank(A: Any, tol: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None) -> Any:
    """How many singular values are above max(atol, rtol * the largest one).  (..., m, n) -> (...)

    rtol is max(m, n) * eps unless it or a positive atol is given; tol is an older name of atol.
    """
    _matrices("matrix_rank", A, square=hermitian)
    sizes = _sizes(A.detach(), hermitian).array
    atol, rtol = (tol, 0.0) if tol is not None else (atol, rtol)
    return Tensor(np.asarray((sizes > _tolerance(A, sizes, atol, rtol)).sum(-1)))


def cond(A: Any, p: Any = None) -> Any:
    """The condition numbers of matrices: |A| |A^-1| in the norm p; None is 2, the ratio of singular values.

    p: None, 2, -2, "fro", "nuc", inf, -inf, 1, -1; all but the first three want square matrices.
    """
    _matrices("cond", A, square=p not in (None, 2, -2))
    if p in (None, 2, -2):
        sizes = svdvals(A)
        first, last = sizes[..., 0], sizes[..., -1]
        return last / first if p == -2 else first / last
    return matrix_norm(A, p) * matrix_norm(inv(A), p)


@op
def _pinv(A: Any, cutoff: Any) -> Any:
    """The pseudo-inverse without the singular values up to cutoff (..., 1).

    Gradient: Golub and Pereyra, "The differentiation of pseudo-inverses and nonlinear least squares problems whose
    variables separate", 1973.
    """
    u, s, vh = _lapack("pinv", lambda a: np.linalg.svd(a, full_matrices=False), plain(A))
    inverted = np.where(s > cutoff, 1 / np.where(s > cutoff, s, 1), 0).astype(s.dtype)
    y = (_turned(vh) * inverted[..., None, :]) @ _turned(u)

    def pullback(g: Any) -> Any:
        p = _again(_pinv, y, A, cutoff)
        gt, pt = _turned(g), _turned(p)
        left, right = gt @ p @ pt, pt @ p @ gt
        return left - A @ (p @ left) + right - (right @ p) @ A - pt @ g @ pt

    return y, pullback


def pinv(A: Any, rcond: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None) -> Any:
    """The Moore-Penrose pseudo-inverses of matrices.  (..., m, n) -> (..., n, m)

    Singular values up to max(atol, rtol * the largest one) count as zero; rtol is max(m, n) * eps unless it or a
    positive atol is given, rcond an older name of it. hermitian: A is symmetric, and only its lower triangle is read.
    """
    _matrices("pinv", A, square=hermitian)
    rtol = rcond if rcond is not None else rtol
    if not hermitian:
        return _pinv(A, _tolerance(A, svdvals(A.detach()).array, atol, rtol))
    values, vectors = eigh(A)
    sizes = np.abs(values.array)
    small = Tensor(sizes <= _tolerance(A, sizes, atol, rtol))
    inverted = where(small, 0.0, 1.0 / where(small, 1.0, values))
    return matmul(vectors * unsqueeze(inverted, -2), vectors.mT)


def pinverse(input: Any, rcond: float = 1e-15) -> Any:  # noqa: A002
    """`pinv` with a tolerance of rcond."""
    return pinv(input, rcond)


class LeastSquares(NamedTuple):
    """What `lstsq` returns."""

    solution: Any
    residuals: Any
    rank: Any
    singular_values: Any


def lstsq(A: Any, B: Any, rcond: float | None = None, *, driver: str | None = None) -> LeastSquares:
    """X with the least |A X - B|, and of these the one with the least |X|.  A: (..., m, n), B: (..., m, k) or (..., m)

    residuals: the squares (..., k) where m > n and A has full rank, else empty. rank, singular_values: empty where
    LAPACK's `driver` ("gelsy", the default, "gels", "gelsd", "gelss") does not find them. rcond: singular values up to
    rcond times the largest count as zero, default max(m, n) * eps. Raises ValueError for shapes that do not fit and
    for other drivers.
    """
    _matrices("lstsq", A, square=False)
    if driver not in (None, "gels", "gelsy", "gelsd", "gelss"):
        raise ValueError(f"lstsq: driver must be 'gels', 'gelsy', 'gelsd' or 'gelss', got {driver!r}")
    vector = B.ndim == A.ndim - 1 and B.shape == A.shape[:-1]
    whole = unsqueeze(B, -1) if vector else B
    if whole.ndim != A.ndim or whole.shape[-2] != A.shape[-2]:
        raise ValueError(f"lstsq: A of shape {A.shape} and B of shape {B.shape} do not fit")
    m, n = A.shape[-2:]
    x = matmul(pinv(A, rcond), whole)
    sizes = svdvals(A.detach())
    rank = matrix_rank(A.detach(), rtol=rcond)
    residuals = Tensor(np.empty(0, A.dtype))
    if m > n and driver != "gelsy" and bool((rank.array == n).all()):
        residuals = (matmul(A, x) - whole).square().sum(-2)
    return LeastSquares(
        x[..., 0] if vector else x, residuals, Tensor(np.empty(0, np.int64)) if driver == "gels" else rank,
        sizes if driver in ("gelsd", "gelss") else Tensor(np.empty(0, A.dtype)),
    )  # fmt: skip


# -- others -------------------------------------------------------------------------------------------

_TERMS = 18  # of the series where the norm is at most 1/2: the next one is below 1e-22


def matrix_exp(input: Any) -> Any:  # noqa: A002
    """e^A = sum of A^k / k! of square matrices, by scaling and squaring.

    Moler and Van Loan, "Nineteen dubious ways to compute the exponential of a matrix", 2003, method 3.
    """
    _matrices("matrix_exp", input)
    largest = float(np.abs(input.array).sum(-2).max(initial=0))
    squarings = max(0, math.ceil(math.log2(largest)) + 1) if math.isfinite(largest) and largest else 0
    scaled = input * 0.5**squarings
    eye = Tensor(np.eye(input.shape[-1], dtype=input.dtype))
    found = eye + scaled / _TERMS
    for k in range(_TERMS - 1, 0, -1):
        found = eye + matmul(scaled, found) / k
    for _ in range(squarings):
        found = matmul(found, found)
    return found


def tensorinv(A: Any, ind: int = 2) -> Any:
    """The inverse of A as a map from its last dimensions to its first `ind` ones, whose sizes multiply to the same."""
    first, last = A.shape[:ind], A.shape[ind:]
    if ind <= 0 or math.prod(first) != math.prod(last):
        raise ValueError(f"tensorinv: the sizes {first} and {last} of shape {A.shape} must multiply to the same")
    return inv(A.reshape(math.prod(first), -1)).reshape(*last, *first)


def tensorsolve(A: Any, B: Any, dims: Sequence[int] | None = None) -> Any:
    """X with tensordot(A, X, X.ndim) = B. dims: dimensions of A to move to its end first."""
    if dims is not None:
        A = movedim(A, tuple(dims), tuple(range(A.ndim - len(dims), A.ndim)))
    rest = A.shape[B.ndim :]
    if math.prod(rest) != B.numel() or math.prod(A.shape[: B.ndim]) != B.numel():
        raise ValueError(f"tensorsolve: A of shape {A.shape} and B of shape {B.shape} do not fit")
    return solve(A.reshape(B.numel(), -1), B.reshape(-1)).reshape(*rest)


def vecdot(x: Any, y: Any, *, dim: int = -1) -> Any:
    """sum(x * y) along dim; the other dimensions broadcast."""
    return (x * y).sum(dim)
