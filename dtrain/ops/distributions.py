"""Draws from distributions: `normal`, `bernoulli`, `multinomial`, and what Tensor's in-place draws write.

Every call takes the next stream of the present microbatch (see `dtrain.backend.random`), or the NumPy generator that
it is given. Draws are made in float32 for float32 and in float64 for all others, and converted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, op
from dtrain.backend import to_device, xp_of
from dtrain.backend.halves import finfo, is_float
from dtrain.ops.draws import drawn_dtype, next_draw
from dtrain.ops.dtypes import default_dtype

__all__ = ["IN_PLACE", "bernoulli", "multinomial", "normal"]


@op
def _without_slope(x: Any, drawn: Any) -> Any:
    """drawn, which came from x; the gradient of x is zero."""
    shape, dtype = x.shape, x.dtype
    return drawn, lambda g: xp_of(g).zeros(shape, dtype)


def _array(x: Any) -> Any:
    return x.array if isinstance(x, Tensor) else x


def _broadcast(name: str, x: Any, shape: Any) -> Any:
    """x, an array or a number, in a shape."""
    try:
        return np.broadcast_to(x, shape)
    except ValueError:
        raise ValueError(f"{name}: shapes {np.shape(x)} and {tuple(shape)} do not broadcast") from None


def normal(
    mean: Any = 0.0,
    std: Any = 1.0,
    size: Any = None,
    *,
    generator: Any = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Draws from the normal distribution: `randn * std + mean`.

    mean, std: tensors that broadcast, or numbers; of two numbers the size is given, and a dtype (float32) may be. The
    result has the mean's dtype where that is a tensor, else std's; its gradients are zero, as in PyTorch.
    Raises RuntimeError where std is negative, TypeError for two numbers without a size, and for whole numbers.
    """
    m, s = _array(mean), _array(std)
    if (s < 0).any() if isinstance(std, Tensor) else s < 0:
        raise RuntimeError(f"normal needs std >= 0, got {s if np.ndim(s) == 0 else s.min()}")
    tensors = [x for x in (mean, std) if isinstance(x, Tensor)]
    if not tensors:
        if size is None:
            raise TypeError(f"normal: give a size for the numbers {mean} and {std}, or tensors")
        shape, dtype = tuple(size), np.dtype(dtype or default_dtype)
    elif size is not None:
        raise TypeError(f"normal: the size {tuple(size)} is that of tensors where mean or std is one")
    else:
        shape, dtype = tensors[0].shape, tensors[0].dtype
        if len(tensors) == 2:
            shape = _fitting(m, s)
    if not is_float(dtype):
        raise TypeError(f"normal needs a floating-point dtype, got {dtype}")
    draws = (generator or next_draw()).standard_normal(shape, drawn_dtype(np.empty(0, dtype)))
    made = (draws * s + m).astype(dtype)
    if tensors:
        return _without_slope(tensors[0] if tensors[0].requires_grad else tensors[-1], made)
    result = Tensor(to_device(made, device or "cpu"))
    return result.requires_grad_() if requires_grad else result


def _fitting(m: Any, s: Any) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(m.shape, s.shape)
    except ValueError:
        raise ValueError(f"normal: mean of shape {m.shape} and std of shape {s.shape} do not broadcast") from None


def bernoulli(input: Tensor, p: Any = None, *, generator: Any = None) -> Tensor:  # noqa: A002
    """1 with the probability that input's elements say, else 0, in input's shape and dtype.

    p: one probability for all, and input gives only shape and dtype. The gradient is zero, as in PyTorch.
    Raises RuntimeError for probabilities outside [0, 1], TypeError where whole numbers stand for probabilities.
    """
    if p is None:
        if not is_float(input.dtype):
            raise TypeError(f"bernoulli needs probabilities in floating point, got {input.dtype}")
        p = input
    return _without_slope(input, np.asarray(_bernoulli(input, p, generator=generator)).astype(input.dtype))


def multinomial(input: Tensor, num_samples: int, replacement: bool = False, *, generator: Any = None) -> Tensor:  # noqa: A002
    """Numbers of categories, drawn by the rows of input: weights (n,) or (m, n) -> (num_samples,) or (m, num_samples).

    The weights need not sum to 1. Without replacement no category comes twice: those with the largest weight / e,
    where e are draws from the exponential distribution (Efraimidis and Spirakis, "Weighted random sampling with a
    reservoir", 2006). Raises RuntimeError for weights that are negative, infinite, NaN or all zero, for
    more samples than categories without replacement, for shapes of 0 or more than 2 dimensions; TypeError for integers.
    """
    w = input.array
    if not is_float(input.dtype):
        raise TypeError(f"multinomial needs floating-point weights, got {input.dtype}")
    if input.ndim not in (1, 2):
        raise RuntimeError(f"multinomial needs weights of shape (n,) or (m, n), got {input.shape}")
    if num_samples <= 0 or not replacement and num_samples > w.shape[-1]:
        raise RuntimeError(
            f"multinomial: {num_samples} samples of {w.shape[-1]} categories (weights of shape {input.shape}) "
            f"with replacement={replacement}; draw at least 1, and more than there are only with replacement=True"
        )
    if not (np.isfinite(w) & (w >= 0)).all():
        raise RuntimeError(f"multinomial: the weights, of shape {input.shape}, must be finite and not negative")
    rows = w.reshape(-1, w.shape[-1]).astype(np.float64)
    if not (rows.sum(-1) > 0).all():
        raise RuntimeError(f"multinomial: each row of weights, of shape {input.shape}, needs one above 0")
    found = (_with_replacement if replacement else _without_replacement)(rows, num_samples, generator or next_draw())
    return Tensor(found.astype(np.int64).reshape(*input.shape[:-1], num_samples))


def _with_replacement(rows: np.ndarray, k: int, draw: np.random.Generator) -> np.ndarray:
    ends = np.cumsum(rows, -1)
    places = draw.random((len(rows), k))
    # Divided, the last end is 1 and no draw is beyond it; a category of weight 0 ends where it begins, and is not met.
    pairs = zip(ends / ends[:, -1:], places, strict=True)
    return np.stack([np.searchsorted(e, u, "right") for e, u in pairs]) if len(rows) else np.empty((0, k))


def _without_replacement(rows: np.ndarray, k: int, draw: np.random.Generator) -> np.ndarray:
    keys = rows / np.maximum(draw.standard_exponential(rows.shape), np.finfo(np.float64).tiny)
    return np.argsort(-keys, -1, kind="stable")[:, :k]


# -- in place: what is written into x ------------------------------------------------------------------


def _check(name: str, x: Tensor, right: bool, what: str) -> None:
    """Raise TypeError for whole numbers, RuntimeError with what was expected and given unless right."""
    if not is_float(x.dtype):
        raise TypeError(f"{name} writes fractions: it needs a floating-point tensor, got {x.dtype}")
    if not right:
        raise RuntimeError(f"{name} needs {what}")


def _uniform(x: Tensor, a: float = 0.0, b: float = 1.0, *, generator: Any = None) -> Any:
    """Draw all elements from the uniform distribution on [a, b): the next draw, as by `rand`, or a generator's."""
    _check("uniform_", x, a <= b, f"a <= b, got a={a} and b={b}")
    dtype = drawn_dtype(x)
    return (generator or next_draw()).random(x.shape, dtype) * dtype(b - a) + dtype(a)


def _normal(x: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Any:
    """Draw all elements from the normal distribution: the next draw, as by `randn`, or a generator's."""
    _check("normal_", x, std >= 0, f"std >= 0, got {std}")
    dtype = drawn_dtype(x)
    return (generator or next_draw()).standard_normal(x.shape, dtype) * dtype(std) + dtype(mean)


def _bernoulli(x: Tensor, p: Any = 0.5, *, generator: Any = None) -> Any:
    """Set each element to 1 with probability p, else to 0. p: a number, or a tensor that broadcasts to x."""
    chances = _array(p)
    if not np.all((chances >= 0) & (chances <= 1)):
        raise RuntimeError(f"bernoulli needs probabilities in [0, 1], got {chances}")
    draws = (generator or next_draw()).random(x.shape, drawn_dtype(x))
    return draws < _broadcast("bernoulli", chances, x.shape)


def _exponential(x: Tensor, lambd: float = 1.0, *, generator: Any = None) -> Any:
    """Draw all elements from the exponential distribution, of density lambd exp(-lambd x) for x > 0."""
    _check("exponential_", x, lambd > 0, f"lambd > 0, got {lambd}")
    return (generator or next_draw()).standard_exponential(x.shape, drawn_dtype(x)) / lambd


def _cauchy(x: Tensor, median: float = 0.0, sigma: float = 1.0, *, generator: Any = None) -> Any:
    """Draw all elements from the Cauchy distribution, of density sigma / pi / ((x - median)^2 + sigma^2)."""
    _check("cauchy_", x, sigma > 0, f"sigma > 0, got {sigma}")
    return median + sigma * np.tan(np.pi * ((generator or next_draw()).random(x.shape) - 0.5))


def _log_normal(x: Tensor, mean: float = 1.0, std: float = 2.0, *, generator: Any = None) -> Any:
    """Set all elements to exp of draws from the normal distribution of that mean and standard deviation."""
    _check("log_normal_", x, std > 0, f"std > 0, got {std}")
    return np.exp((generator or next_draw()).standard_normal(x.shape, drawn_dtype(x)) * std + mean)


def _geometric(x: Tensor, p: float, *, generator: Any = None) -> Any:
    """Draw all elements from the geometric distribution: the number of trials, each with chance p, to a success."""
    if not 0 < p < 1:
        raise RuntimeError(f"geometric_ needs p between 0 and 1, got {p}")
    return (generator or next_draw()).geometric(p, x.shape)


def _random(x: Tensor, *bounds: int | None, generator: Any = None) -> Any:
    """Draw all elements from whole numbers: random_(high) from [0, high), random_(low, high) from [low, high).

    Without high, random_() or random_(low, None): up to the largest one to which x's dtype holds all exactly.
    RuntimeError where there are none, or where they do not fit into the dtype.
    """
    if len(bounds) > 2:
        raise TypeError(f"random_ takes high, or low and high, got {bounds}")
    low, high = bounds if len(bounds) == 2 else (0, *bounds, None)[:2]
    kind, dtype = x.dtype.kind, x.dtype
    if is_float(dtype):
        least, most = -(1 << finfo(dtype).nmant + 1), 1 << finfo(dtype).nmant + 1
    else:
        least, most = (0, 1) if kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    first, last = int(low or 0), most if high is None else int(high) - 1
    if first > last:
        raise RuntimeError(f"random_ needs low < high, got {low} and {high}")
    if not is_float(dtype) and not least <= first <= last <= most:
        raise RuntimeError(f"random_: {first} to {last} do not all fit into {dtype}, which holds {least} to {most}")
    return (generator or next_draw()).integers(first, last, x.shape, np.int64, endpoint=True)


#: Tensor's in-place draws, by name.
IN_PLACE: dict[str, Callable[..., Any]] = {
    "bernoulli_": _bernoulli, "cauchy_": _cauchy, "exponential_": _exponential, "geometric_": _geometric,
    "log_normal_": _log_normal, "normal_": _normal, "random_": _random, "uniform_": _uniform,
}  # fmt: skip
