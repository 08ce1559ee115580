"""Activation functions made of straight pieces (and hard swish). `inplace` is accepted by all, as by `relu`."""

from __future__ import annotations

from typing import Any

from dtrain.autograd import op
from dtrain.backend import Array, activation, xp_of
from dtrain.ops.draws import drawn_dtype, next_draw
from dtrain.ops.dtypes import only_floats, same_dtype, unbroadcast

__all__ = [
    "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "prelu", "relu6", "rrelu", "softshrink",
    "threshold",
]  # fmt: skip


def _between(x: Array, low: float, high: float) -> Any:
    if made := activation("clip", x, low, high):
        return made
    y = xp_of(x).clip(x, low, high)
    return y, lambda g: g * ((y > low) & (y < high))


@op
def relu6(input: Any, inplace: bool = False) -> Any:  # noqa: A002
    """min(max(x, 0), 6) (Howard et al., arXiv:1704.04861); the gradient is 0 at both ends."""
    return _between(input, 0, 6)


@op
def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:  # noqa: A002
    """x limited to [min_val, max_val]; the gradient is 0 at both ends. Raises ValueError where min_val > max_val."""
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val {min_val} is larger than max_val {max_val}")
    if input.dtype.kind != "f":
        min_val, max_val = int(min_val), int(max_val)
    return _between(input, min_val, max_val)


@op
def leaky_relu(input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Any:  # noqa: A002
    """x where x > 0, else negative_slope * x (Maas, Hannun and Ng, ICML 2013)."""
    only_floats("leaky_relu", input)
    if made := activation("leaky_relu", input, negative_slope):
        return made
    return _leaky(input, negative_slope)


def _leaky(x: Array, slope: float) -> Any:
    xp = xp_of(x)
    y = xp.maximum(x, slope * x) if 0 < slope <= 1 else xp.where(x > 0, x, slope * x)
    return y, lambda g: xp_of(g).where(x > 0, g, slope * g)


@op(lowered=True)
def prelu(input: Any, weight: Any) -> Any:  # noqa: A002
    """x where x > 0, else weight * x.  input: (N, C, ...), weight: (C,), or (1,) or () for all channels

    He et al., arXiv:1502.01852. An input of fewer than two dimensions has one channel. Raises ValueError for a
    weight of another size.
    """
    only_floats("prelu", input)
    same_dtype("prelu", input, weight)
    channels = input.shape[1] if input.ndim > 1 else 1
    if weight.ndim > 1 or weight.size not in (1, channels):
        raise ValueError(
            f"prelu: a weight of shape {weight.shape} does not fit an input of shape {input.shape}; "
            f"it must have 1 element or {channels}, one per channel"
        )
    wide = (1, weight.size, *[1] * (input.ndim - 2)) if input.ndim > 1 else (1,) * input.ndim
    slope = weight.reshape(wide)
    x, positive = input, input > 0
    return xp_of(x).where(positive, x, slope * x), (
        lambda g: xp_of(g).where(positive, g, slope * g),
        lambda g: unbroadcast(g * x * ~positive, slope).reshape(weight.shape),
    )


def rrelu(
    input: Any,  # noqa: A002
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Any:
    """x where x > 0, else a x; in training a is drawn from [lower, upper) for each element, else it is their mean.

    Xu et al., arXiv:1505.00853. The draws are a function of (seed, step, microbatch, call), as those of `dropout`.
    Raises ValueError where lower > upper.
    """
    if lower > upper:
        raise ValueError(f"rrelu: lower {lower} is larger than upper {upper}")
    if not training:
        return leaky_relu(input, (lower + upper) / 2)
    only_floats("rrelu", input)
    drawn = next_draw().random(input.shape, drawn_dtype(input))
    return _sloped(input, (drawn * (upper - lower) + lower).astype(input.dtype, copy=False))


@op
def _sloped(x: Any, slope: Any) -> Any:
    """x where x > 0, else slope * x."""
    factor = xp_of(slope).where(x > 0, 1, slope).astype(slope.dtype, copy=False)
    return x * factor, lambda g: g * factor


@op
def hardsigmoid(input: Any, inplace: bool = False) -> Any:  # noqa: A002
    """min(max(x + 3, 0), 6) / 6 (Howard et al., arXiv:1905.02244); the gradient is 0 from 3 on, and up to -3."""
    only_floats("hardsigmoid", input)
    x, xp = input, xp_of(input)
    return xp.clip(x + 3, 0, 6) / 6, lambda g: g * ((x > -3) & (x < 3)) / 6


@op
def hardswish(input: Any, inplace: bool = False) -> Any:  # noqa: A002
    """x min(max(x + 3, 0), 6) / 6 (Howard et al., arXiv:1905.02244). Raises TypeError for integers."""
    only_floats("hardswish", input)
    if made := activation("hardswish", input, 1 / 6, 0.5):
        return made
    x, xp = input, xp_of(input)
    part = xp.clip(x + 3, 0, 6)
    part /= 6
    return x * part, lambda g: g * (part + x * ((x > -3) & (x < 3)) / 6)


@op
def threshold(input: Any, threshold: float, value: float, inplace: bool = False) -> Any:  # noqa: A002
    """x where x > threshold, else value."""
    over = input > threshold
    y = xp_of(input).where(over, input, value)
    return y.astype(input.dtype, copy=False), lambda g: g * over


@op
def hardshrink(input: Any, lambd: float = 0.5) -> Any:  # noqa: A002
    """x where |x| > lambd, else 0."""
    only_floats("hardshrink", input)
    inside = (input >= -lambd) & (input <= lambd)
    return xp_of(input).where(inside, 0, input), lambda g: g * ~inside


@op
def softshrink(input: Any, lambd: float = 0.5) -> Any:  # noqa: A002
    """x moved towards 0 by lambd, 0 where |x| <= lambd. Raises ValueError for lambd < 0."""
    only_floats("softshrink", input)
    if lambd < 0:
        raise ValueError(f"softshrink: lambd must not be negative, got {lambd}")
    x = input
    return x - xp_of(x).clip(x, -lambd, lambd), lambda g: g * ~((x >= -lambd) & (x <= lambd))
