"""Orthogonal polynomials of `torch.special`, by their recurrences. Made of ops of Tensors: all have gradients in x.

A family is p_1 and the step from p_k and p_{k-1} to p_{k+1}; p_0 is 1 (Abramowitz and Stegun, Handbook of Mathematical
Functions, table 22.7). Computing p_n takes n steps; in [-1, 1] these are stable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dtrain.autograd import Tensor
from dtrain.ops.arithmetic import where
from dtrain.ops.dtypes import default_dtype, result_dtype
from dtrain.ops.shape import broadcast_to

__all__ = [
    "chebyshev_polynomial_t", "chebyshev_polynomial_u", "chebyshev_polynomial_v", "chebyshev_polynomial_w",
    "hermite_polynomial_h", "hermite_polynomial_he", "laguerre_polynomial_l", "legendre_polynomial_p",
    "shifted_chebyshev_polynomial_t", "shifted_chebyshev_polynomial_u", "shifted_chebyshev_polynomial_v",
    "shifted_chebyshev_polynomial_w",
]  # fmt: skip

Step = Callable[[int, Any, Any, Any], Any]


def _family(title: str, first: Callable[[Any], Any], step: Step) -> Callable[..., Any]:
    """p_n(x) elementwise from p_1 = first(x) and p_{k+1} = step(k, x, p_k, p_{k-1})."""

    def polynomial(input: Any, n: Any) -> Any:
        x, degree = (v if isinstance(v, Tensor) else Tensor(np.asarray(v)) for v in (input, n))
        dtype = result_dtype(*(v.array if isinstance(v, Tensor) else v for v in (input, n)))
        x = x.to(dtype if dtype.kind == "f" else default_dtype)
        degrees = np.trunc(degree.array).astype(np.int64)
        x = broadcast_to(x, np.broadcast_shapes(x.shape, degrees.shape))
        before, p = Tensor(np.ones(x.shape, x.dtype)), first(x)
        value = where(Tensor(degrees == 1), p, Tensor((degrees == 0).astype(x.dtype)))
        for k in range(1, int(degrees.max(initial=0))):
            before, p = p, step(k, x, p, before)
            value = where(Tensor(degrees == k + 1), p, value)
        return value

    polynomial.__doc__ = f"""{title} of degree n at x; 0 for a negative n. input and n, which broadcast, are tensors or
    numbers; of n the whole part counts. Raises ValueError where they do not broadcast.
    """
    return polynomial


def _chebyshev(kind: str, first: Callable[[Any], Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A Chebyshev polynomial, and the same of 2 x - 1."""
    step: Step = lambda k, x, p, before: 2 * x * p - before  # noqa: E731
    plain = _family(f"The Chebyshev polynomial of the {kind} kind", first, step)
    shifted = _family(
        f"The Chebyshev polynomial of the {kind} kind of 2 x - 1, which is of interest in [0, 1],",
        lambda x: first(2 * x - 1),
        lambda k, x, p, before: step(k, 2 * x - 1, p, before),
    )
    return plain, shifted


chebyshev_polynomial_t, shifted_chebyshev_polynomial_t = _chebyshev("first", lambda x: x)
chebyshev_polynomial_u, shifted_chebyshev_polynomial_u = _chebyshev("second", lambda x: 2 * x)
chebyshev_polynomial_v, shifted_chebyshev_polynomial_v = _chebyshev("third", lambda x: 2 * x - 1)
chebyshev_polynomial_w, shifted_chebyshev_polynomial_w = _chebyshev("fourth", lambda x: 2 * x + 1)

hermite_polynomial_h = _family(
    "The Hermite polynomial (weight exp(-x^2))", lambda x: 2 * x, lambda k, x, p, before: 2 * x * p - 2 * k * before
)
hermite_polynomial_he = _family(
    "The Hermite polynomial (weight exp(-x^2 / 2))", lambda x: x, lambda k, x, p, before: x * p - k * before
)
laguerre_polynomial_l = _family(
    "The Laguerre polynomial", lambda x: 1 - x, lambda k, x, p, before: ((2 * k + 1 - x) * p - k * before) / (k + 1)
)
legendre_polynomial_p = _family(
    "The Legendre polynomial", lambda x: x, lambda k, x, p, before: ((2 * k + 1) * x * p - k * before) / (k + 1)
)
