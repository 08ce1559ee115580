"""Sums, ReLU, erf and GELU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dtrain.backend.halves import HALVES, bfloat16, halved, in_float32, widened

__all__ = ["add", "each_element", "erf", "gelu", "gelu_grad", "relu", "relu_grad"]

_MINUS_INFINITY = 0xFF80  # of bfloat16; above are the NaNs whose sign is set


def add(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x + y, of one shape and dtype; two-byte floats are added in float32."""
    return halved(widened(x) + widened(y), x.dtype) if x.dtype in HALVES else x + y


def relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0); NaN stays NaN."""
    if x.itemsize != 2:
        return np.maximum(x, 0)
    if x.dtype != bfloat16:
        return halved(np.maximum(widened(x), 0), x.dtype)
    if x.size and x.view(np.uint16).max() > _MINUS_INFINITY:
        return halved(np.maximum(widened(x), 0), bfloat16)
    bits = x.view(np.int16)
    y = bits >> 15  # all ones where x is negative; a third of the time that np.maximum takes
    np.invert(y, out=y)
    return np.bitwise_and(bits, y, out=y).view(bfloat16)


@in_float32
def relu_grad(g: np.ndarray, y: np.ndarray) -> np.ndarray:
    """g where y = relu(x) is not 0, else 0; g, as in PyTorch, where it is NaN."""
    return g * (y != 0)


def _erf_and_exp(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """erf(x) and exp(-x^2); see `erf`."""
    a = np.abs(x)
    e = a * a
    np.negative(e, out=e)
    np.exp(e, out=e)
    if x.dtype == np.float32:
        t = a
        t *= np.float32(0.3275911)
        t += 1
        np.reciprocal(t, out=t)
        tail = t * np.float32(1.061405429)
        for c in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
            tail += np.float32(c)
            tail *= t
        tail *= e
        return np.copysign(np.subtract(1, tail, out=tail), x, out=tail), e
    near = np.minimum(a, 2.5)
    term = near.copy()
    series = near.copy()
    for n in range(1, 60):
        term = term * (2 * near * near) / (2 * n + 1)
        series += term
    series *= 2 / math.sqrt(math.pi) * np.exp(-near * near)
    far = np.clip(a, 2.5, 27.0)
    fraction = np.zeros_like(far)
    for n in range(60, 0, -1):
        fraction = n / 2 / (far + fraction)
    tail = np.exp(-far * far) / (math.sqrt(math.pi) * (far + fraction))
    return np.copysign(np.where(a < 2.5, series, 1 - tail), x), e


def erf(x: np.ndarray) -> np.ndarray:
    """The error function 2 / sqrt(pi) * integral of exp(-t^2) from 0 to x.

    float32: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26 (absolute error 1.5e-7, 5e-7 with
    rounding).
    float64: the power series where |x| < 2.5, the continued fraction of erfc (7.1.6 and 7.1.14 there) beyond.
    """
    return _erf_and_exp(x)[0]


# Elements worked on at a time by what makes many passes: these stay in the cache.
_CHUNK_ELEMENTS = 1 << 15


def each_element(function: Callable[..., None], *arrays: np.ndarray, only_if: Any = None) -> None:
    """function(*arrays), which changes some of these 1-D arrays in place, each element by itself: in cache-sized parts.

    arrays: of one length. only_if: an array of one truth, without which nothing is done. On a GPU the function becomes
    one kernel, which looks at it itself.
    """
    if only_if is not None and not only_if:
        return
    n = len(arrays[0])
    if n <= _CHUNK_ELEMENTS:
        function(*arrays)
        return
    for start in range(0, n, _CHUNK_ELEMENTS):
        function(*(a[start : start + _CHUNK_ELEMENTS] for a in arrays))


def gelu(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x * Phi(x), Phi the normal distribution function (1 + erf(x / sqrt(2))) / 2; and its slope, in float32 at least.

    The slope is Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi).
    """
    dtype, x = x.dtype, widened(x)
    y, slope = np.empty_like(x), np.empty_like(x)
    chunks = np.nditer(
        [x, y, slope],
        ["external_loop", "buffered", "zerosize_ok"],
        [["readonly"], ["writeonly"], ["writeonly"]],
        buffersize=_CHUNK_ELEMENTS,
    )
    with chunks:
        for part, of_y, of_slope in chunks:
            phi, density = _erf_and_exp(part * x.dtype.type(math.sqrt(0.5)))
            phi += 1
            phi *= 0.5
            np.multiply(part, phi, out=of_y)
            density *= part
            density *= 1 / math.sqrt(2 * math.pi)
            np.add(density, phi, out=of_slope)
    return halved(y, dtype), slope


def gelu_grad(g: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The gradient of gelu, from the slope."""
    return halved(widened(g) * kept, g.dtype)
