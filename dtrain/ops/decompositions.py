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
from dtrain.backend.halves import widened
from dtrain.ops.dtypes import plain, quiet, unbroadcast
from dtrain.ops.linear import matmul
from dtrain.ops.shape import squeeze, unsqueeze

__all__ = [
    "Eigen", "QR", "SVD", "SlogDet", "USV", "cholesky", "det", "eigh", "eigvalsh", "inv", "inverse", "logdet",
    "matrix_power", "qr", "qr_some", "slogdet", "solve", "svd", "svd_usv", "svdvals",
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
        return function(*map(widened, arrays))
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
def _eigh(A: Any, UPLO: str) -> Any:
    """The gradient is that of all of A, symmetric, as PyTorch's."""
    values, vectors = _lapack("eigh", lambda a: np.linalg.eigh(a, "U" if UPLO == "U" else "L"), plain(A))

    def pullback(g: Any, needs: Sequence[bool]) -> list[Any]:
        w, v = _again(_eigh, (values, vectors), A, UPLO)
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
    if UPLO.upper() not in ("L", "U"):
        raise ValueError(f"eigh: UPLO must be 'L' or 'U', got {UPLO!r}")
    return Eigen(*_eigh(A, UPLO.upper()))


def eigvalsh(A: Any, UPLO: str = "L") -> Any:
    """The eigenvalues of symmetric matrices, ascending."""
    return eigh(A, UPLO).eigenvalues


class SVD(NamedTuple):
    """What `svd` returns: input = U diag(S) Vh."""

    U: Any
    S: Any
    Vh: Any


@op
def _svd(A: Any, full_matrices: bool = False) -> Any:
    """Of the columns of U and V that belong to no singular value no gradient passes, as in PyTorch."""
    value = _lapack("svd", lambda a: np.linalg.svd(a, full_matrices=full_matrices), plain(A))
    k = value[1].shape[-1]
    u, s, vh = value[0][..., :k], value[1], value[2][..., :k, :]

    def pullback(g: Any, needs: Sequence[bool]) -> list[Any]:
        gu, gs, gvh = (
            d if d is None else d[cut]
            for d, cut in zip(g, ((..., slice(k)), ..., (..., slice(k), slice(None))), strict=True)
        )
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

    return tuple(value), Joint(pullback)


def svd(A: Any, full_matrices: bool = True) -> SVD:
    """U, S (descending), Vh with A = U diag(S) Vh. full_matrices: square U and Vh.

    Gradients pass through the columns that belong to singular values.
    """
    _matrices("svd", A, square=False)
    return SVD(*_svd(A, full_matrices))


class USV(NamedTuple):
    """What `svd_usv` returns: input = U diag(S) V^T."""

    U: Any
    S: Any
    V: Any


def svd_usv(input: Any, some: bool = True, compute_uv: bool = True) -> USV:  # noqa: A002
    """(U, S, V) with input = U diag(S) V^T: `torch.svd`. some: not all columns; without compute_uv U and V are 0."""
    u, s, vh = svd(input, not some)
    if compute_uv:
        return USV(u, s, vh.mT)
    m, n = input.shape[-2:]
    return USV(*(Tensor(np.zeros((*input.shape[:-2], k, k), input.dtype)) if k else s for k in (m, 0, n)))


def svdvals(A: Any) -> Any:
    """The singular values of matrices, descending."""
    _matrices("svdvals", A, square=False)
    return _svd(A)[1]


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


class QR(NamedTuple):
    """What `qr` returns: A = Q R."""

    Q: Any
    R: Any


@op
def _qr(A: Any, mode: str) -> Any:
    """The gradient after Roberts and Roberts, "QR and LQ decomposition matrix backpropagation algorithms", 2020."""
    q, r = _lapack("qr", lambda a: np.linalg.qr(a, "complete" if mode == "complete" else "reduced"), plain(A))
    m, n = A.shape[-2:]

    def pullback(g: Any, needs: Sequence[bool]) -> list[Any]:
        if mode == "complete" and m > n:
            raise RuntimeError(f"qr: with mode='complete' matrices need as many columns as rows, got {A.shape}")
        (gq, gr), (big_q, big_r) = g, _again(_qr, (q, r), A, mode)
        k = min(m, n)
        left = big_r[..., :k]
        if gr is not None and n > m:
            beside = big_q @ gr[..., k:]
            more = A[..., k:] @ _turned(gr[..., k:])
            gq = more if gq is None else gq + more
        inner = 0.0 if gr is None else left @ _turned(gr[..., :k])
        inner = inner if gq is None else inner - _turned(gq) @ big_q
        ones = np.tri(k, dtype=q.dtype)
        lower = inner * ones
        whole = big_q @ (lower + _turned(inner * (ones - np.eye(k, dtype=q.dtype))))
        whole = whole if gq is None else whole + gq
        gx = _turned(_solve.raw(left, _turned(whole)))
        if n <= m:
            return [gx]
        beside = xp_of(gx).zeros((*A.shape[:-1], n - m), q.dtype) if gr is None else beside
        return [xp_of(gx, beside).concatenate([gx, beside], -1)]

    return (q, r), Joint(pullback)


def qr(A: Any, mode: str = "reduced") -> QR:
    """Q with orthonormal columns and R upper triangular, A = Q R.  A: (..., m, n), k = min(m, n)

    mode: "reduced", Q (..., m, k) and R (..., k, n); "complete", (..., m, m) and (..., m, n), with gradients where
    m <= n; "r", an empty Q, R (..., k, n) and no gradients. Raises ValueError for other modes.
    """
    _matrices("qr", A, square=False)
    if mode == "r":
        return QR(Tensor(np.empty(0, A.dtype)), Tensor(_lapack("qr", lambda a: np.linalg.qr(a, "r"), A.array)))
    if mode not in ("reduced", "complete"):
        raise ValueError(f"qr: mode must be 'reduced', 'complete' or 'r', got {mode!r}")
    return QR(*_qr(A, mode))


def qr_some(input: Any, some: bool = True) -> QR:  # noqa: A002
    """`qr` under the name and with the argument of `torch.qr`: "reduced" if some, else "complete"."""
    return qr(input, "reduced" if some else "complete")
