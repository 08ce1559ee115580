"""Inverses, determinants, solutions and decompositions of matrices, in batches: by LAPACK, through NumPy.

Gradients after Giles, "Collected matrix derivative results for forward and reverse mode algorithmic differentiation",
2008. `_again` makes what a pullback needs of an op's own value recorded where the op is run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dtrain.autograd import Joint, Tensor, op
from dtrain.backend import xp_of
from dtrain.ops.dtypes import plain, quiet, unbroadcast
from dtrain.ops.linear import matmul
from dtrain.ops.shape import squeeze, unsqueeze

__all__ = [
    "Eigen", "SVD", "SlogDet", "cholesky", "det", "eigh", "eigvalsh", "inv", "inverse", "logdet", "matrix_power",
    "pinv", "slogdet", "solve", "svd", "svdvals",
]  # fmt: skip


def _matrices(name: str, x: Any, square: bool = True) -> None:
    """Raise ValueError unless x is a matrix (square) or a batch of them, TypeError unless floating-point."""
    if x.ndim < 2 or square and x.shape[-1] != x.shape[-2]:
        raise ValueError(f"{name} needs {'square ' * square}matrices (..., n, n), got shape {x.shape}")
    if x.dtype.kind != "f":
        raise TypeError(f"{name} needs a floating-point tensor, got {x.dtype}; convert with .float()")


def _again(function: Any, value: Any, *args: Any) -> Any:
    """value, or what `function` records of args where one of them does."""
    return function.raw(*args) if any(hasattr(a, "tensor") for a in args) else value


def _turned(x: Any) -> Any:
    return x.swapaxes(-1, -2)


def _lapack(name: str, function: Any, *arrays: Any) -> Any:
    """function(*arrays); LAPACK's failure as RuntimeError, as in PyTorch."""
    try:
        return function(*[a.astype(np.float32) if a.dtype == np.float16 else a for a in arrays])
    except np.linalg.LinAlgError as error:
        raise RuntimeError(f"{name}: {error}, for a matrix of shape {arrays[0].shape}") from None


@op
def inv(A: Any) -> Any:
    """The inverses of square matrices. Raises RuntimeError where one is singular."""
    _matrices("inv", A)
    y = _lapack("inv", np.linalg.inv, plain(A))

    def pullback(g: Any) -> Any:
        z = _turned(_again(inv, y, A))
        return -(z @ g @ z)

    return y, pullback


inverse = inv


@op
@quiet
def det(A: Any) -> Any:
    """The determinants of square matrices."""
    _matrices("det", A)
    y = np.asarray(np.linalg.det(plain(A)), plain(A).dtype)

    def pullback(g: Any) -> Any:
        """g times the cofactors: det(A) inv(A)^T, or by singular values where A is singular."""
        xp = xp_of(g)
        if not hasattr(A, "tensor") and (y == 0).any():
            return xp.expand_dims(g, (-1, -2)) * _cofactors(A)
        return xp.expand_dims(g * _again(det, y, A), (-1, -2)) * _turned(inv.raw(A))

    return y, pullback


def _cofactors(a: Any) -> Any:
    """det(a) inv(a)^T without dividing by singular values that may be zero."""
    u, s, v = np.linalg.svd(a)
    n = s.shape[-1]
    others = np.stack([np.prod(np.delete(s, i, -1), -1) for i in range(n)], -1)
    sign = np.linalg.det(u) * np.linalg.det(v)
    return (sign[..., None, None] * (u * others[..., None, :]) @ v).astype(a.dtype)


class SlogDet(NamedTuple):
    """What `slogdet` returns."""

    sign: Any
    logabsdet: Any


@op
@quiet
def _logabsdet(A: Any) -> Any:
    return np.asarray(
        np.linalg.slogdet(plain(A))[1], plain(A).dtype
    ), lambda g: xp_of(g).expand_dims(g, (-1, -2)) * _turned(inv.raw(A))


def slogdet(A: Any) -> SlogDet:
    """(sign, log |det|) of square matrices."""
    _matrices("slogdet", A)
    sign = np.asarray(np.linalg.slogdet(A.array)[0], A.dtype)
    return SlogDet(Tensor(sign), _logabsdet(A))


def logdet(input: Any) -> Any:
    """log det of square matrices; NaN where it is negative."""
    from dtrain.ops.arithmetic import where

    sign, value = slogdet(input)
    return where(sign < 0, Tensor(np.full((), np.nan, input.dtype)), value)


@op
def _solve(A: Any, B: Any) -> Any:
    x = _lapack("solve", np.linalg.solve, plain(A), plain(B))

    def of_b(g: Any) -> Any:
        return _solve.raw(_turned(A), g)

    def pullback(g: Any, needs: Sequence[bool]) -> list[Any]:
        h = of_b(g)
        y = _again(_solve, x, A, B)
        return [
            unbroadcast(-(h @ _turned(y)), A) if needs[0] else None,
            unbroadcast(h, B) if needs[1] else None,
        ]

    return x, Joint(pullback)


def solve(A: Any, B: Any, *, left: bool = True) -> Any:
    """X with A X = B (X A = B unless left). B: vectors (..., n) or matrices (..., n, k); batches broadcast."""
    _matrices("solve", A)
    vector = B.ndim == 1 or B.ndim == A.ndim - 1 and B.shape == A.shape[:-1]
    if not B.ndim or B.shape[-1 if vector or not left else -2] != A.shape[-1]:
        raise ValueError(f"solve: A of shape {A.shape} and B of shape {B.shape} do not fit")
    if A.dtype != B.dtype:
        raise TypeError(f"solve needs operands of one dtype, got {A.dtype} and {B.dtype}")
    if vector:
        return squeeze(_solve(A, unsqueeze(B, -1)), -1) if left else squeeze(_solve(A.mT, unsqueeze(B, -1)), -1)
    return _solve(A, B) if left else _solve(A.mT, B.mT).mT


@op
def _cholesky(A: Any) -> Any:
    y = _lapack("cholesky", np.linalg.cholesky, plain(A))

    def pullback(g: Any) -> Any:
        low = _again(_cholesky, y, A)
        n = y.shape[-1]
        half = np.tri(n, dtype=y.dtype) - np.eye(n, dtype=y.dtype) / 2  # the lower triangle, its diagonal halved
        inner = (_turned(low) @ g) * half
        s = _solve.raw(_turned(low), inner @ inv.raw(low))
        return (s + _turned(s)) * 0.5

    return y, pullback


def cholesky(input: Any, upper: bool = False) -> Any:
    """L, lower triangular, with L L^T = input, symmetric and positive (upper: L^T). RuntimeError unless so."""
    _matrices("cholesky", input)
    found = _cholesky(input)
    return found.mT if upper else found


class Eigen(NamedTuple):
    """What `eigh` returns."""

    eigenvalues: Any
    eigenvectors: Any


@op
def _eigh(A: Any) -> Any:
    values, vectors = _lapack("eigh", np.linalg.eigh, plain(A))

    def pullback(g: Any, needs: Sequence[bool]) -> list[Any]:
        w, v = _again(_eigh, (values, vectors), A)
        xp = xp_of(w)
        inner = 0.0
        if g[1] is not None:
            apart = xp.expand_dims(w, -2) - xp.expand_dims(w, -1)
            eye = np.eye(values.shape[-1], dtype=values.dtype)
            inner = (_turned(v) @ g[1]) * ((1 - eye) / (apart + eye))
        if g[0] is not None:
            inner = inner + xp.expand_dims(g[0], -1) * np.eye(values.shape[-1], dtype=values.dtype)
        whole = v @ inner @ _turned(v)
        return [(whole + _turned(whole)) * 0.5]

    return (values, vectors), Joint(pullback)


def eigh(A: Any, UPLO: str = "L") -> Eigen:
    """(eigenvalues, ascending; eigenvectors, columns) of symmetric matrices, of which one triangle is read."""
    _matrices("eigh", A)
    return Eigen(*_eigh(_symmetric(A, UPLO)))


def _symmetric(A: Any, UPLO: str) -> Any:
    from dtrain.ops.diagonals import tril, triu

    if UPLO.upper() not in ("L", "U"):
        raise ValueError(f"eigh: UPLO must be 'L' or 'U', got {UPLO!r}")
    half = tril(A, -1) if UPLO.upper() == "L" else triu(A, 1)
    return half + half.mT + A * Tensor(np.eye(A.shape[-1], dtype=A.dtype))


def eigvalsh(A: Any, UPLO: str = "L") -> Any:
    """The eigenvalues of symmetric matrices, ascending."""
    return eigh(A, UPLO).eigenvalues


class SVD(NamedTuple):
    """What `svd` returns: input = U diag(S) Vh."""

    U: Any
    S: Any
    Vh: Any


@op
def _svd(A: Any) -> Any:
    u, s, vh = _lapack("svd", lambda a: np.linalg.svd(a, full_matrices=False), plain(A))

    def pullback(g: Any, needs: Sequence[bool]) -> list[Any]:
        gu, gs, gvh = g
        big_u, big_s, big_vh = _again(_svd, (u, s, vh), A)
        xp = xp_of(big_s)
        v, eye = _turned(big_vh), np.eye(s.shape[-1], dtype=s.dtype)
        row = xp.expand_dims(big_s, -2)
        column = xp.expand_dims(big_s, -1)
        inner = 0.0 if gs is None else xp.expand_dims(gs, -1) * eye
        apart = (1 - eye) / ((row - column) * (row + column) + eye)
        beside = 0.0
        if gu is not None:
            turn = (_turned(big_u) @ gu) * apart
            inner = inner + (turn + _turned(turn)) * row
            if u.shape[-2] > s.shape[-1]:
                over = gu / row
                beside = beside + (over - big_u @ (_turned(big_u) @ over)) @ big_vh
        if gvh is not None:
            gv = _turned(gvh)
            turn = (_turned(v) @ gv) * apart
            inner = inner + column * (turn + _turned(turn))
            if vh.shape[-1] > s.shape[-1]:
                over = gv / row
                beside = beside + big_u @ _turned(over - v @ (_turned(v) @ over))
        return [big_u @ inner @ big_vh + beside]

    return (u, s, vh), Joint(pullback)


def svd(A: Any, full_matrices: bool = True) -> SVD:
    """U, S (descending), Vh with A = U diag(S) Vh. full_matrices: square U and Vh, for which there are no gradients."""
    _matrices("svd", A, square=False)
    if full_matrices and A.shape[-1] != A.shape[-2]:
        if A.requires_grad:
            raise RuntimeError("svd: gradients need full_matrices=False for matrices that are not square")
        return SVD(*map(Tensor, _lapack("svd", np.linalg.svd, A.array)))
    return SVD(*_svd(A))


def svdvals(A: Any) -> Any:
    """The singular values of matrices, descending."""
    _matrices("svdvals", A, square=False)
    return _svd(A)[1]


def pinv(A: Any, rcond: float | None = None, hermitian: bool = False) -> Any:
    """The Moore-Penrose pseudo-inverses of matrices; singular values up to rcond times the largest count as zero."""
    from dtrain.ops.arithmetic import where

    _matrices("pinv", A, square=False)
    u, s, vh = _svd(A)
    cutoff = max(A.shape[-2:]) * np.finfo(A.dtype).eps if rcond is None else rcond
    small = Tensor(s.array <= cutoff * s.array.max(-1, keepdims=True, initial=0))
    inverted = where(small, 0.0, 1.0 / where(small, 1.0, s))
    return vh.mT @ (unsqueeze(inverted, -1) * u.mT)


def matrix_power(A: Any, n: int) -> Any:
    """The n-th power of square matrices; negative powers are those of the inverses."""
    _matrices("matrix_power", A)
    if n < 0:
        return matrix_power(inv(A), -n)
    found = None
    while n:
        if n & 1:
            found = A if found is None else matmul(found, A)
        n >>= 1
        A = matmul(A, A) if n else A
    if found is None:
        return Tensor(np.broadcast_to(np.eye(A.shape[-1], dtype=A.dtype), A.shape).copy())
    return found
