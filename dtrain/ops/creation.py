"""Tensors made from numbers, ranges and random draws."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.autograd import Tensor, is_grad_enabled
from dtrain.backend import to_device
from dtrain.backend.random import Purpose, next_stream
from dtrain.ops.dtypes import default_dtype
from dtrain.ops.shape import _shape

__all__ = [
    "arange", "as_tensor", "empty", "empty_like", "eye", "from_numpy", "full", "full_like", "linspace",
    "ones", "ones_like", "rand", "rand_like", "randint", "randn", "randn_like", "randperm", "tensor",
    "zeros", "zeros_like",
]  # fmt: skip


def _make(array: np.ndarray, device: Any, requires_grad: bool) -> Tensor:
    made = Tensor(to_device(array, device or "cpu"))
    return made.requires_grad_() if requires_grad else made


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
    if array.dtype.kind not in "biuf":
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


def full(size: Any, fill_value: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of one value; dtype by the kind of the value."""
    if dtype is None:
        dtype = np.bool_ if isinstance(fill_value, bool) else np.int64 if isinstance(fill_value, int) else default_dtype
    return _make(np.full(size, fill_value, dtype), device, requires_grad)


def zeros(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of a shape: zeros(2, 3) or zeros((2, 3)); float32 by default."""
    return _make(np.zeros(_shape(size), dtype or default_dtype), device, requires_grad)


def ones(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of a shape; float32 by default."""
    return _make(np.ones(_shape(size), dtype or default_dtype), device, requires_grad)


def empty(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of a shape with elements of no particular value."""
    return _make(np.empty(_shape(size), dtype or default_dtype), device, requires_grad)


def eye(n: int, m: int | None = None, dtype: Any = None, device: Any = None) -> Tensor:
    """Ones on the diagonal of an (n, m) matrix, zeros elsewhere."""
    return _make(np.eye(n, m, dtype=dtype or default_dtype), device, False)


def arange(start: Any, end: Any = None, step: Any = 1, dtype: Any = None, device: Any = None) -> Tensor:
    """start, start + step, ... below end; arange(n) counts from 0. int64, or float32 if an argument is a float."""
    start, end = (0, start) if end is None else (start, end)
    if dtype is None:
        dtype = default_dtype if any(isinstance(a, float) for a in (start, end, step)) else np.int64
    return _make(np.arange(start, end, step).astype(dtype), device, False)


def linspace(start: float, end: float, steps: int, dtype: Any = None, device: Any = None) -> Tensor:
    """`steps` numbers, evenly spaced from start to end, both included."""
    return _make(np.linspace(start, end, steps, dtype=dtype or default_dtype), device, False)


def _stream() -> np.random.Generator:
    return next_stream(Purpose.GRAPH if is_grad_enabled() else Purpose.NO_GRAD)


def rand(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Uniform draws from [0, 1): a function of (seed, step, microbatch, call), see `manual_seed`."""
    return _make(_stream().random(_shape(size), _drawn(dtype)), device, requires_grad)


def randn(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Draws from the normal distribution of mean 0 and variance 1."""
    return _make(_stream().standard_normal(_shape(size), _drawn(dtype)), device, requires_grad)


def _drawn(dtype: Any) -> Any:
    dtype = np.dtype(dtype or default_dtype)
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"random draws are float32 or float64, not {dtype}; convert with .to({dtype})")
    return dtype.type


def randint(low: int, high: Any = None, size: Any = None, dtype: Any = None, device: Any = None) -> Tensor:
    """Whole numbers from [low, high): randint(high, size) or randint(low, high, size); int64 by default."""
    if size is None:
        low, high, size = 0, low, high
    return _make(_stream().integers(low, high, tuple(size)).astype(dtype or np.int64), device, False)


def randperm(n: int, device: Any = None) -> Tensor:
    """The numbers 0 to n - 1 in random order."""
    return _make(_stream().permutation(n).astype(np.int64), device, False)


def zeros_like(x: Tensor, dtype: Any = None) -> Tensor:
    """Zeros of x's shape, dtype and device."""
    return zeros(x.shape, dtype=dtype or x.dtype, device=x.device)


def ones_like(x: Tensor, dtype: Any = None) -> Tensor:
    """Ones of x's shape, dtype and device."""
    return ones(x.shape, dtype=dtype or x.dtype, device=x.device)


def empty_like(x: Tensor, dtype: Any = None) -> Tensor:
    """A tensor of x's shape, dtype and device with elements of no particular value."""
    return empty(x.shape, dtype=dtype or x.dtype, device=x.device)


def full_like(x: Tensor, fill_value: Any, dtype: Any = None) -> Tensor:
    """fill_value in x's shape, dtype and device."""
    return full(x.shape, fill_value, dtype=dtype or x.dtype, device=x.device)


def rand_like(x: Tensor, dtype: Any = None) -> Tensor:
    """Uniform draws of x's shape, dtype and device."""
    return rand(x.shape, dtype=dtype or x.dtype, device=x.device)


def randn_like(x: Tensor, dtype: Any = None) -> Tensor:
    """Normal draws of x's shape, dtype and device."""
    return randn(x.shape, dtype=dtype or x.dtype, device=x.device)
