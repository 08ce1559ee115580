"""Tensors made from numbers, ranges and random draws."""

# ruff: noqa: A002  (`input` is PyTorch's name)

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, as_one_call
from dtrain.backend import made_on, to_device
from dtrain.backend.halves import HALVES, converted, finfo, is_float
from dtrain.ops.draws import next_draw
from dtrain.ops.dtypes import default_dtype
from dtrain.ops.shape import _shape, broadcast_to

__all__ = [
    "arange", "as_tensor", "empty", "empty_like", "eye", "fill", "from_numpy", "full", "full_like", "linspace",
    "logspace", "new_empty", "new_full", "new_ones", "new_tensor", "new_zeros", "ones", "ones_like", "rand",
    "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm", "scalar_tensor", "tensor", "zeros",
    "zeros_like",
]  # fmt: skip


def _make(array: np.ndarray, device: Any, requires_grad: bool) -> Tensor:
    made = Tensor(to_device(array, device or "cpu"))
    return made.requires_grad_() if requires_grad else made


def _made(make: Callable[[Any], Any], device: Any, requires_grad: bool) -> Tensor:
    """A tensor of make(xp), an array that is made where it is to be: a CUDA graph can make it again."""
    made = Tensor(make(np) if device is None else made_on(device, make))
    return made.requires_grad_() if requires_grad else made


def _filled(size: Any, value: Any, dtype: Any, device: Any, requires_grad: bool) -> Tensor:
    dtype = np.dtype(dtype or default_dtype)

    def make(xp: Any) -> Any:
        wide = xp is not np and dtype in HALVES  # CuPy knows not all of these
        return converted(xp.full(size, value, np.float32), dtype) if wide else xp.full(size, value, dtype)

    return _made(make, device, requires_grad)


def tensor(data: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A new tensor with a copy of data: numbers, nested lists, arrays or tensors.

    dtype defaults to that of an array, to float32 for Python floats, int64 for ints, bool for bools.
    """
    if isinstance(data, Tensor):
        data = data.array
    elif isinstance(data, (list, tuple)):
        data = _unwrap(data)
    array = np.array(data)
    if dtype is None and array.dtype == np.float64 and not hasattr(data, "dtype") and not _has_float64(data):
        dtype = default_dtype
    if array.dtype.kind not in "biu" and not is_float(array.dtype):
        raise TypeError(f"a tensor holds bools, integers or floats, not {array.dtype}; got {type(data).__name__}")
    return _make(array.astype(dtype, copy=False) if dtype is not None else array, device, requires_grad)


def _unwrap(data: Any) -> Any:
    """Nested lists with their tensors as arrays."""
    if isinstance(data, (list, tuple)):
        return [_unwrap(d) for d in data]
    return data.array if isinstance(data, Tensor) else data


def _has_float64(data: Any) -> bool:
    """Whether nested lists hold float64 arrays, whose dtype is to be kept."""
    if isinstance(data, (list, tuple)):
        return any(map(_has_float64, data))
    return getattr(data, "dtype", None) == np.float64


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """data as a tensor, without a copy where it is a tensor or array of that dtype."""
    if isinstance(data, Tensor):
        return data.to(dtype=dtype, device=device)
    if isinstance(data, np.ndarray):
        return from_numpy(data).to(dtype=dtype, device=device)
    return tensor(data, dtype, device)


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares the array's memory."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy needs a NumPy array, got {type(array).__name__}")
    return Tensor(array)


@as_one_call
def full(size: Any, fill_value: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of one value; dtype by the kind of the value."""
    if dtype is None:
        dtype = np.bool_ if isinstance(fill_value, bool) else np.int64 if isinstance(fill_value, int) else default_dtype
    return _filled(size, fill_value, dtype, device, requires_grad)


@as_one_call
def zeros(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of a shape: zeros(2, 3) or zeros((2, 3)); float32 by default."""
    return _made(lambda xp: xp.zeros(_shape(size), dtype or default_dtype), device, requires_grad)


@as_one_call
def ones(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of a shape; float32 by default."""
    return _filled(_shape(size), 1, dtype, device, requires_grad)


@as_one_call
def empty(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of a shape with elements of no particular value."""
    return _made(lambda xp: xp.empty(_shape(size), dtype or default_dtype), device, requires_grad)


@as_one_call
def eye(n: int, m: int | None = None, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones on the diagonal of an (n, m) matrix, zeros elsewhere; m is n by default. ValueError below 0."""
    if min(n, n if m is None else m) < 0:
        raise ValueError(f"eye: n and m must be at least 0, got {n} and {m}")
    return _made(lambda xp: xp.eye(n, m, dtype=dtype or default_dtype), device, requires_grad)


@as_one_call
def arange(
    start: Any, end: Any = None, step: Any = 1, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """start, start + step, ... below end; arange(n) counts from 0. int64, or float32 if an argument is a float.

    There are ceil((end - start) / step) numbers. ValueError for a step of 0 or in the wrong direction.
    """
    start, end = (0, start) if end is None else (start, end)
    start, end, step = (a.item() if isinstance(a, Tensor) else a for a in (start, end, step))
    if dtype is None:
        dtype = default_dtype if any(isinstance(a, float) for a in (start, end, step)) else np.int64
    dtype = np.dtype(dtype)
    if dtype.kind in "iu" and np.isfinite([start, end, step]).all():
        start, end, step = int(start), int(end), int(step)
    if not np.isfinite([start, end]).all():
        raise ValueError(f"arange: start and end must be finite, got {start} and {end}")
    if not step or (end - start) * step < 0:
        raise ValueError(f"arange: no way from {start} to {end} in steps of {step}")
    count = -(-(end - start) // step) if isinstance(start + end + step, int) else math.ceil((end - start) / step)
    return _made(lambda xp: (start + xp.arange(count) * step).astype(dtype), device, requires_grad)


@as_one_call
def linspace(
    start: Any, end: Any, steps: int, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """`steps` numbers, evenly spaced from start to end, both included. start, end: numbers or 0-dimensional tensors.

    Whole numbers are cut, not rounded. TypeError or ValueError unless steps is a whole number of at least 0.
    """
    dtype = np.dtype(dtype or default_dtype)
    return _make(_spaced("linspace", start, end, steps, dtype).astype(dtype), device, requires_grad)


@as_one_call
def logspace(
    start: Any,
    end: Any,
    steps: int,
    base: float = 10.0,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """base ** linspace(start, end, steps)."""
    dtype = np.dtype(dtype or default_dtype)
    powers = _spaced("logspace", start, end, steps, dtype)
    with np.errstate(all="ignore"):
        return _make(np.power(float(base), powers).astype(dtype), device, requires_grad)


def _spaced(name: str, start: Any, end: Any, steps: int, dtype: np.dtype) -> np.ndarray:
    """The numbers of linspace in float64; each half counts from its own end."""
    for value in (start, end):
        if isinstance(value, Tensor) and value.ndim:
            raise ValueError(f"{name}: start and end must have no dimensions, one has shape {value.shape}")
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)):
        raise TypeError(f"{name}: steps must be a whole number, got {steps!r}")
    if steps < 0:
        raise ValueError(f"{name}: steps must be at least 0, got {steps}")
    first, last = (a.item() if isinstance(a, Tensor) else a for a in (start, end))
    if dtype.kind in "iu":
        first, last = int(first), int(last)
    step = (last - first) / max(steps - 1, 1)
    i = np.arange(steps)
    return np.where(i < steps / 2 if steps > 1 else i == 0, first + i * step, last - (steps - 1 - i) * step)


@as_one_call
def scalar_tensor(s: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A number as a tensor without dimensions; float32 by default."""
    return _make(np.asarray(s, dtype or default_dtype), device, requires_grad)


@as_one_call
def rand(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Uniform draws from [0, 1): a function of (seed, step, microbatch, call), see `manual_seed`."""
    dtype = np.dtype(dtype or default_dtype)
    drawn = next_draw().random(_shape(size), _drawn(dtype))
    if dtype in HALVES:
        steps = 2 / np.float32(finfo(dtype).eps)  # rounded down: 1 is never drawn
        drawn = (np.floor(drawn * steps) / steps).astype(dtype)
    return _make(drawn, device, requires_grad)


@as_one_call
def randn(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Draws from the normal distribution of mean 0 and variance 1."""
    dtype = np.dtype(dtype or default_dtype)
    drawn = next_draw().standard_normal(_shape(size), _drawn(dtype))
    return _make(drawn.astype(dtype, copy=False), device, requires_grad)


def _drawn(dtype: np.dtype) -> Any:
    """The dtype in which numbers of `dtype` are drawn."""
    if not is_float(dtype) or dtype.itemsize > 8:
        raise TypeError(f"random draws are floating-point numbers, not {dtype}; convert with .to({dtype})")
    return np.float64 if dtype == np.float64 else np.float32


@as_one_call
def randint(
    low: Any, high: Any = None, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Whole numbers from [low, high): randint(high, size) or randint(low, high, size); int64 by default."""
    if size is None:
        low, high, size = 0, low, high
    if high <= low:
        raise ValueError(f"randint: there are no whole numbers from {low} on that are below {high}")
    return _make(next_draw().integers(low, high, tuple(size)).astype(dtype or np.int64), device, requires_grad)


@as_one_call
def randperm(n: int, dtype: Any = None, device: Any = None) -> Tensor:
    """The numbers 0 to n - 1 in random order."""
    return _make(next_draw().permutation(n).astype(dtype or np.int64), device, False)


def zeros_like(input: Tensor, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of the input's shape, dtype and device."""
    return zeros(input.shape, **_like(input, dtype, device, requires_grad))


def ones_like(input: Tensor, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of the input's shape, dtype and device."""
    return ones(input.shape, **_like(input, dtype, device, requires_grad))


def empty_like(input: Tensor, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of the input's shape, dtype and device with elements of no particular value."""
    return empty(input.shape, **_like(input, dtype, device, requires_grad))


def full_like(
    input: Tensor, fill_value: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """fill_value in the input's shape, dtype and device."""
    return full(input.shape, fill_value, **_like(input, dtype, device, requires_grad))


def fill(input: Tensor, value: Any) -> Any:
    """A tensor of the input's shape and dtype, all of whose elements are value, a number or a tensor of no dimensions.

    Raises ValueError for a value with dimensions.
    """
    if not isinstance(value, Tensor):
        return full_like(input, value)
    if value.ndim:
        raise ValueError(f"fill needs a number or a tensor of no dimensions, got shape {value.shape}")
    return broadcast_to(value.to(input.dtype), input.shape)


def rand_like(input: Tensor, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Uniform draws of the input's shape, dtype and device."""
    return rand(input.shape, **_like(input, dtype, device, requires_grad))


def randn_like(input: Tensor, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Normal draws of the input's shape, dtype and device."""
    return randn(input.shape, **_like(input, dtype, device, requires_grad))


def randint_like(
    input: Tensor, low: Any, high: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Whole numbers from [low, high), or [0, low), in the input's shape, dtype and device."""
    low, high = (0, low) if high is None else (low, high)
    return randint(low, high, input.shape, **_like(input, dtype, device, requires_grad))


def _like(x: Tensor, dtype: Any, device: Any, requires_grad: bool) -> dict[str, Any]:
    return {"dtype": dtype or x.dtype, "device": device or x.device, "requires_grad": requires_grad}


def new_empty(self: Tensor, *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of a shape in this one's dtype, with elements of no particular value."""
    return empty(*size, **_like(self, dtype, device, requires_grad))


def new_full(
    self: Tensor, size: Any, fill_value: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of a shape and of one value, in this one's dtype."""
    return full(size, fill_value, **_like(self, dtype, device, requires_grad))


def new_ones(self: Tensor, *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of a shape in this one's dtype."""
    return ones(*size, **_like(self, dtype, device, requires_grad))


def new_tensor(self: Tensor, data: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A copy of data, see `dtrain.tensor`, in this one's dtype."""
    return tensor(data, **_like(self, dtype, device, requires_grad))


def new_zeros(self: Tensor, *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of a shape in this one's dtype."""
    return zeros(*size, **_like(self, dtype, device, requires_grad))
