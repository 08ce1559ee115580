"""Activation functions."""

from __future__ import annotations

import math
from typing import Any

from dtrain.autograd import op
from dtrain.backend import backend_of, xp_of
from dtrain.ops.dtypes import floating

__all__ = ["gelu", "log_softmax", "relu", "sigmoid", "softmax", "tanh"]


@op
def relu(input: Any, inplace: bool = False) -> Any:  # noqa: A002
    """max(x, 0). `inplace` is accepted for PyTorch's sake; a new tensor is returned all the same."""
    y = xp_of(input).maximum(input, 0)
    return y, lambda g: g * (y > 0)


@op
def tanh(x: Any) -> Any:
    """The hyperbolic tangent."""
    y = xp_of(x).tanh(floating(x))
    return y, lambda g: g * (1 - y * y)


@op
def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)), computed as (1 + tanh(x / 2)) / 2, which cannot overflow."""
    y = xp_of(x).tanh(floating(x) * 0.5)
    y *= 0.5
    y += 0.5
    return y, lambda g: g * (y * (1 - y))


@op
def gelu(input: Any, approximate: str = "none") -> Any:  # noqa: A002
    """x * Phi(x), Phi the normal distribution function (Hendrycks and Gimpel, arXiv:1606.08415).

    approximate="tanh": 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))). Raises ValueError for other names.
    """
    x = input
    xp = xp_of(x)
    if approximate == "tanh":
        k = math.sqrt(2 / math.pi)
        t = xp.tanh(k * (x + 0.044715 * x * x * x))
        slope = lambda: 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * 0.044715 * x * x)  # noqa: E731
        return 0.5 * x * (1 + t), lambda g: g * slope()
    if approximate != "none":
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    y, slope_of_x = backend_of(x).gelu(x)
    return y, lambda g: g * slope_of_x


def _check_dim(name: str, x: Any, dim: int) -> None:
    if not -max(x.ndim, 1) <= dim < max(x.ndim, 1):
        raise IndexError(f"{name}: dim {dim} is out of range for shape {x.shape}")


@op
def softmax(input: Any, dim: int, dtype: Any = None) -> Any:  # noqa: A002
    """exp(x) / sum(exp(x)) along dim."""
    x = input if dtype is None else input.astype(dtype)
    _check_dim("softmax", x, dim)
    y = backend_of(x).softmax(x, dim)
    return y, lambda g: (y * (g - (g * y).sum(dim, keepdims=True))).astype(input.dtype, copy=False)


@softmax.formula
def _(input: Any, dim: int, dtype: Any = None) -> Any:  # noqa: A002
    x = input if dtype is None else input.to(dtype)
    e = (x - x.detach().amax(dim, keepdim=True)).exp()
    return e / e.sum(dim, keepdim=True)


@op
def log_softmax(input: Any, dim: int, dtype: Any = None) -> Any:  # noqa: A002
    """x - log(sum(exp(x))) along dim."""
    x = input if dtype is None else input.astype(dtype)
    _check_dim("log_softmax", x, dim)
    y = backend_of(x).log_softmax(x, dim)
    return y, lambda g: (g - xp_of(x).exp(y) * g.sum(dim, keepdims=True)).astype(input.dtype, copy=False)


@log_softmax.formula
def _(input: Any, dim: int, dtype: Any = None) -> Any:  # noqa: A002
    x = input if dtype is None else input.to(dtype)
    x = x - x.detach().amax(dim, keepdim=True)
    return x - x.exp().sum(dim, keepdim=True).log()
