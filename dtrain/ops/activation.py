"""Activation functions. Those made of straight pieces are in `piecewise.py`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, op
from dtrain.backend import Array, activation, backend_of, xp_of
from dtrain.ops.arithmetic import where
from dtrain.ops.draws import drawn_dtype, next_draw
from dtrain.ops.dtypes import floating, only_floats

__all__ = [
    "celu", "elu", "gelu", "glu", "gumbel_softmax", "log_softmax", "logsigmoid", "mish", "relu", "selu", "sigmoid",
    "silu", "softmax", "softmin", "softplus", "softsign", "tanh", "tanhshrink",
]  # fmt: skip


def _logistic(x: Array) -> Array:
    """1 / (1 + exp(-x)), to the last digits also where it is small."""
    xp = xp_of(x)
    # Below, exp(-x) would overflow.
    return 1 / (1 + xp.exp(-xp.maximum(x, -88 if x.dtype == np.float32 else -709)))


@op(halves=True)
def relu(input: Any, inplace: bool = False) -> Any:  # noqa: A002
    """max(x, 0). `inplace` is accepted for PyTorch's sake; a new tensor is returned all the same."""
    kernels = backend_of(input)
    y = kernels.relu(input)
    return y, lambda g: kernels.relu_grad(g, y)


@relu.formula
def _(input: Any, inplace: bool = False) -> Any:  # noqa: A002
    return where(input.detach() <= 0, 0.0, input)


@op
def tanh(x: Any) -> Any:
    """The hyperbolic tangent."""
    if made := activation("tanh", x):
        return made
    y = xp_of(x).tanh(floating(x))
    return y, lambda g: g * (1 - y * y)


@op
def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)), computed as (1 + tanh(x / 2)) / 2, which cannot overflow, where there is no kernel for it."""
    if made := activation("sigmoid", x):
        return made
    y = xp_of(x).tanh(floating(x) * 0.5)
    y *= 0.5
    y += 0.5
    return y, lambda g: g * (y * (1 - y))


def gelu(input: Any, approximate: str = "none") -> Any:  # noqa: A002
    """x * Phi(x), Phi the normal distribution function (Hendrycks and Gimpel, arXiv:1606.08415).

    approximate="tanh": 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))). Raises ValueError for other names,
    TypeError for integers.
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    only_floats("gelu", input)
    return _gelu(input) if approximate == "none" else _gelu_tanh(input)


@op(halves=True)
def _gelu(x: Any) -> Any:
    kernels = backend_of(x)
    y, kept = kernels.gelu(x)
    return y, lambda g: kernels.gelu_grad(g, kept)


@_gelu.formula
def _(x: Any) -> Any:
    from dtrain.ops.special import erf

    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


@op
def _gelu_tanh(x: Any) -> Any:
    k = math.sqrt(2 / math.pi)
    t = xp_of(x).tanh(k * (x + 0.044715 * x * x * x))
    return 0.5 * x * (1 + t), lambda g: g * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * 0.044715 * x * x))


@op
def silu(input: Any, inplace: bool = False) -> Any:  # noqa: A002
    """x / (1 + exp(-x)), also called swish (Hendrycks and Gimpel, arXiv:1606.08415). Raises TypeError for integers."""
    only_floats("silu", input)
    if made := activation("silu", input, 1.0):
        return made
    s = _logistic(input)
    y = input * s
    return y, lambda g: g * (s + y * (1 - s))


@op
def mish(input: Any, inplace: bool = False) -> Any:  # noqa: A002
    """x tanh(log(1 + exp(x))) (Misra, arXiv:1908.08681).

    With e = exp(x) and n = e (e + 2) the hyperbolic tangent is n / (n + 2), and its slope 4 e (e + 1) / (n + 2)^2.
    Raises TypeError for integers.
    """
    only_floats("mish", input)
    x, xp = input, xp_of(input)
    e = xp.exp(xp.minimum(x, 20))  # beyond, n / (n + 2) is 1 to the last digit
    n = e * (e + 2)
    below = n + 2
    t = n / below

    return x * t, lambda g: g * (t + x * (4 * e / below) * ((e + 1) / below))


@op
def softplus(input: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:  # noqa: A002
    """log(1 + exp(beta x)) / beta, x itself where beta x > threshold (Dugas et al., NIPS 2000).

    Raises TypeError for integers.
    """
    only_floats("softplus", input)
    x, xp = input, xp_of(input)
    z = x if beta == 1 else x * beta
    if threshold >= 20:
        # From there on x is the result to the last digit, and a maximum takes a fraction of where's time.
        e = xp.exp(xp.minimum(z, threshold))
        y = xp.log1p(e)
        return xp.maximum(x, y if beta == 1 else y / beta), lambda g: g * (e / (1 + e))
    over = z > threshold
    e = xp.exp(xp.where(over, 0, z))
    y = xp.log1p(e)

    return xp.where(over, x, y if beta == 1 else y / beta), lambda g: xp_of(g).where(over, g, g * (e / (1 + e)))


@op
def logsigmoid(input: Any) -> Any:  # noqa: A002
    """log(1 / (1 + exp(-x))) = min(x, 0) - log(1 + exp(-|x|)). Raises TypeError for integers."""
    only_floats("logsigmoid", input)
    x, xp = input, xp_of(input)
    return xp.minimum(x, 0) - xp.log1p(xp.exp(-xp.abs(x))), lambda g: g * _logistic(-x)


def _elu(name: str, x: Array, alpha: float, scale: float, stretch: float) -> Any:
    """scale x where x > 0, else scale alpha (exp(stretch x) - 1)."""
    only_floats(name, x)
    xp = xp_of(x)
    below = xp.minimum(x, 0)
    below = scale * alpha * xp.expm1(below if stretch == 1 else below * stretch)

    def pullback(g: Array) -> Array:
        # For x > 0, where `below` is 0, another constant is to be added. (where() would take several times as long.)
        slope = stretch * (below + scale * alpha)
        if scale != stretch * scale * alpha:
            slope = slope + (x > 0) * x.dtype.type(scale - stretch * scale * alpha)
        return g * slope

    above = xp.maximum(x, 0)
    return (above if scale == 1 else above * scale) + below, pullback


@op
def elu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:  # noqa: A002
    """x where x > 0, else alpha (exp(x) - 1) (Clevert, Unterthiner and Hochreiter, arXiv:1511.07289).

    Raises TypeError for integers.
    """
    return _elu("elu", input, alpha, 1.0, 1.0)


@op
def selu(input: Any, inplace: bool = False) -> Any:  # noqa: A002
    """1.0507 x where x > 0, else 1.0507 * 1.6733 (exp(x) - 1) (Klambauer et al., arXiv:1706.02515).

    Raises TypeError for integers.
    """
    return _elu("selu", input, 1.6732632423543772, 1.0507009873554805, 1.0)


@op
def celu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:  # noqa: A002
    """x where x > 0, else alpha (exp(x / alpha) - 1) (Barron, arXiv:1704.07483). Raises ValueError for alpha = 0."""
    if alpha == 0:
        raise ValueError("celu: alpha must not be 0")
    return _elu("celu", input, alpha, 1.0, 1 / alpha)


@op
def softsign(input: Any) -> Any:  # noqa: A002
    """x / (1 + |x|)."""
    x = floating(input)
    below = 1 + xp_of(x).abs(x)
    return x / below, lambda g: g / below / below


@op
def tanhshrink(input: Any) -> Any:  # noqa: A002
    """x - tanh(x)."""
    x = floating(input)
    t = xp_of(x).tanh(x)
    return x - t, lambda g: g * (t * t)


@op
def glu(input: Any, dim: int = -1) -> Any:  # noqa: A002
    """a / (1 + exp(-b)), a and b the first and the second half of the input along dim (arXiv:1612.08083).

    Raises ValueError where the size along dim is odd, IndexError for a dim that is not there.
    """
    only_floats("glu", input)
    if not input.ndim:
        raise ValueError("glu cannot halve a tensor of no dimensions (shape ())")
    _check_dim("glu", input, dim)
    if input.shape[dim] % 2:
        raise ValueError(f"glu: dim {dim} of shape {input.shape} must have an even size, it has {input.shape[dim]}")
    a, b = xp_of(input).split(input, [input.shape[dim] // 2], dim)
    s = _logistic(b)
    return a * s, lambda g: xp_of(g).concatenate([g * s, g * a * s * (1 - s)], dim)


def _check_dim(name: str, x: Any, dim: int) -> None:
    if not -max(x.ndim, 1) <= dim < max(x.ndim, 1):
        raise IndexError(f"{name}: dim {dim} is out of range for shape {x.shape}")


@op(halves=True)
def softmax(input: Any, dim: int, dtype: Any = None) -> Any:  # noqa: A002
    """exp(x) / sum(exp(x)) along dim. Raises IndexError for no such dim."""
    x = input if dtype is None else input.astype(dtype)
    _check_dim("softmax", x, dim)
    kernels = backend_of(x)
    y = kernels.softmax(x, dim)
    return y, lambda g: kernels.softmax_grad(g, y, dim).astype(input.dtype, copy=False)


@softmax.formula
def _(input: Any, dim: int, dtype: Any = None) -> Any:  # noqa: A002
    x = input if dtype is None else input.to(dtype)
    e = (x - x.detach().amax(dim, keepdim=True)).exp()
    return e / e.sum(dim, keepdim=True)


@op(halves=True)
def log_softmax(input: Any, dim: int, dtype: Any = None) -> Any:  # noqa: A002
    """x - log(sum(exp(x))) along dim. Raises IndexError for no such dim."""
    x = input if dtype is None else input.astype(dtype)
    _check_dim("log_softmax", x, dim)
    kernels = backend_of(x)
    y = kernels.log_softmax(x, dim)
    return y, lambda g: kernels.log_softmax_grad(g, y, dim).astype(input.dtype, copy=False)


@log_softmax.formula
def _(input: Any, dim: int, dtype: Any = None) -> Any:  # noqa: A002
    x = input if dtype is None else input.to(dtype)
    x = x - x.detach().amax(dim, keepdim=True)
    return x - x.exp().sum(dim, keepdim=True).log()


def softmin(input: Any, dim: int, dtype: Any = None) -> Any:  # noqa: A002
    """exp(-x) / sum(exp(-x)) along dim. Raises IndexError for no such dim."""
    return softmax(-input, dim, dtype)


def gumbel_softmax(logits: Any, tau: float = 1.0, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Any:
    """softmax((logits + G) / tau) along dim, G drawn from the Gumbel distribution (Jang et al., arXiv:1611.01144).

    hard: the value is one-hot, the gradient that of the softmax. The draws are a function of (seed, step, microbatch,
    call), as those of `dropout`. `eps` has no effect, as in PyTorch.
    """
    only_floats("gumbel_softmax", logits)
    _check_dim("gumbel_softmax", logits, dim)
    drawn = next_draw().standard_exponential(logits.shape, drawn_dtype(logits))
    # -log of an exponential draw; 0 can be drawn, and would give infinity.
    noise = -np.log(np.maximum(drawn, np.finfo(drawn_dtype(logits)).tiny))
    soft = softmax((logits + Tensor(noise.astype(logits.dtype, copy=False))) / tau, dim)
    if not hard or not logits.array.size:
        return soft
    return _hard(soft, dim)


@op
def _hard(soft: Any, dim: int) -> Any:
    """1 at the maximum along dim, else 0; the gradient is that of soft itself."""
    xp = xp_of(soft)
    if not soft.ndim:
        return xp.ones_like(soft), lambda g: g
    shape = [1] * soft.ndim
    shape[dim] = soft.shape[dim]
    hot = xp.arange(soft.shape[dim]).reshape(shape) == xp.argmax(soft, dim, keepdims=True)
    return hot.astype(soft.dtype), lambda g: g
