"""Solutions of equations, and decompositions, beside PyTorch's: what its samples do not show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain.ops import decompositions, solvers

RNG = np.random.default_rng(0)
SHAPES = [(4, 4), (5, 3), (3, 5), (2, 4, 3)]


def both(function: Any, *arrays: np.ndarray) -> None:
    """function(library, *tensors) and its gradients agree; function gives one tensor that no sign can change."""
    torch = pytest.importorskip("torch")
    found = []
    for library in (dtrain, torch):
        leaves = [library.from_numpy(a.copy()).requires_grad_() for a in arrays]
        y = function(library, *leaves)
        y.sum().backward()
        found.append([y.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("whole", [False, True])
def test_svd(shape: tuple[int, ...], whole: bool) -> None:
    """Under both names; U, S, V multiply to the matrix, whatever their signs."""
    a = RNG.standard_normal(shape)
    k = min(shape[-2:])

    def product(library: Any, x: Any) -> Any:
        u, s, vh = library.linalg.svd(x, full_matrices=whole)
        return (u[..., :k] * s.unsqueeze(-2)) @ vh[..., :k, :] + (u[..., :k] ** 2) @ (vh[..., :k, :] ** 2)

    def with_v(library: Any, x: Any) -> Any:
        u, s, v = library.svd(x, some=not whole)
        return (u[..., :k] ** 2 * s.unsqueeze(-2)) @ (v[..., :k] ** 2).mT

    both(product, a)
    both(with_v, a)
    assert decompositions.svd_usv is dtrain.svd and decompositions.qr_some is dtrain.qr
    u, s, v = dtrain.from_numpy(a).svd(compute_uv=False)
    assert isinstance(u, dtrain.Tensor) and not u.array.any() and not v.array.any() and s.shape == (*shape[:-2], k)
    assert (u.shape[-1], v.shape[-1]) == shape[-2:]
    assert isinstance(dtrain.svd(dtrain.from_numpy(a)), decompositions.USV)


@pytest.mark.parametrize("triangle", ["L", "U"])
def test_eigenvalues_of_one_triangle(triangle: str) -> None:
    a = RNG.standard_normal((2, 4, 4))
    both(lambda library, x: library.linalg.eigvalsh(x, UPLO=triangle) ** 3, a)
    both(lambda library, x: library.linalg.eigh(x, triangle)[1] ** 2 @ np_like(library, np.arange(4.0)), a)


def np_like(library: Any, array: np.ndarray) -> Any:
    return library.from_numpy(array)


def test_factors_of_cholesky() -> None:
    """Gradients of the triangle that is read: PyTorch's have something in the other one too, which changes nothing."""
    a, b = RNG.standard_normal((3, 4, 4)), RNG.standard_normal((3, 4, 2))
    a = a @ a.swapaxes(-1, -2) + np.eye(4)
    for upper in (False, True):
        both(lambda lib, a, b, u=upper: lib.cholesky_solve(b, lib.linalg.cholesky(a, upper=u), upper=u), a, b)
        both(lambda lib, a, u=upper: lib.cholesky_inverse(lib.linalg.cholesky(a, upper=u), upper=u), a)
    x = dtrain.from_numpy(a)
    y = dtrain.from_numpy(b)
    assert isinstance(dtrain.linalg.inv_ex(x), solvers.InvEx)
    assert isinstance(dtrain.linalg.solve_ex(x, y), solvers.SolveEx)
    assert isinstance(dtrain.linalg.cholesky_ex(x), solvers.CholeskyEx)
    assert isinstance(dtrain.linalg.qr(x), decompositions.QR) and dtrain.qr(x, False).R.shape == (3, 4, 4)
    with pytest.raises(RuntimeError, match="mode='complete'"):
        dtrain.linalg.qr(dtrain.ones(3, 2, requires_grad=True), "complete").Q.sum().backward()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_least_squares(shape: tuple[int, ...]) -> None:
    a, b = RNG.standard_normal(shape), RNG.standard_normal((*shape[:-1], 2))
    both(lambda library, a, b: library.linalg.lstsq(a, b, driver="gelsd").solution, a, b)
    found = dtrain.linalg.lstsq(dtrain.from_numpy(a), dtrain.from_numpy(b), driver="gelsd")
    assert (
        isinstance(found, solvers.LeastSquares) and found.rank.tolist() == np.full(shape[:-2], min(shape[-2:])).tolist()
    )
    wanted = ((a @ found.solution.array - b) ** 2).sum(-2) if shape[-2] > shape[-1] else np.empty(0)
    np.testing.assert_allclose(found.residuals.array, wanted)
    with pytest.raises(ValueError, match=r"A of shape \(3, 2\) and B of shape \(4, 2\) do not fit"):
        dtrain.linalg.lstsq(dtrain.ones(3, 2), dtrain.ones(4, 2))
    with pytest.raises(ValueError, match="driver"):
        dtrain.linalg.lstsq(dtrain.ones(3, 2), dtrain.ones(3, 2), driver="qr")


def test_exponentials_of_large_and_empty_matrices() -> None:
    both(lambda library, a: library.linalg.matrix_exp(a), RNG.standard_normal((2, 3, 3)) * 5)
    both(lambda library, a: library.linalg.matrix_exp(a), np.zeros((0, 0)))
