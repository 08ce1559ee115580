"""What PyTorch's samples do not show of the polynomials: gradients, high degrees, numbers in the place of tensors."""

import numpy as np
import pytest

import dtrain
from dtrain import special
from dtrain.autograd import check_grads
from dtrain.ops import polynomials

X = np.linspace(-0.9, 0.9, 7)


def test_the_slope_of_the_first_kind_is_n_times_the_second():
    x = dtrain.tensor(X).requires_grad_()
    special.chebyshev_polynomial_t(x, 5).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 5 * special.chebyshev_polynomial_u(x, 4).detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("name", polynomials.__all__)
def test_gradients_and_dtypes(name):
    polynomial = getattr(special, name)
    n = dtrain.tensor([-1, 0, 1, 2, 3, 4, 7])
    check_grads(lambda x: polynomial(x, n), dtrain.tensor(X))
    single = polynomial(dtrain.tensor(X, dtype=dtrain.float32), n)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single.numpy(), polynomial(dtrain.tensor(X), n).numpy(), rtol=2e-3)
    assert polynomial(0.5, dtrain.tensor([2])).shape == (1,)
    with pytest.raises(ValueError, match=r"\(7,\).*\(3,\)"):
        polynomial(dtrain.tensor(X), dtrain.tensor([1, 2, 3]))


def test_high_degrees_are_accurate():
    for n in (40, 300):
        got = special.chebyshev_polynomial_t(dtrain.tensor(X), n).numpy()
        np.testing.assert_allclose(got, np.cos(n * np.arccos(X)), atol=1e-11)
        got = special.legendre_polynomial_p(dtrain.tensor(X), n).numpy()
        np.testing.assert_allclose(got, np.polynomial.legendre.legval(X, [0] * n + [1]), atol=1e-11)
