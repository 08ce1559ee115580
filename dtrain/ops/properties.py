"""What scripts ask of a tensor or of dtypes, under PyTorch's names."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.autograd import Tensor
from dtrain.backend.halves import finfo, is_float
from dtrain.ops.dtypes import default_dtype
from dtrain.ops.dtypes import result_dtype as _result_dtype

__all__ = [
    "can_cast", "conj", "conj_physical", "detach", "finfo", "get_default_dtype", "iinfo", "is_complex", "is_conj",
    "is_floating_point", "is_neg", "is_nonzero", "is_same_size", "is_signed", "numel", "promote_types", "real",
    "resolve_conj", "resolve_neg", "result_type",
]  # fmt: skip

iinfo = np.iinfo


def numel(input: Tensor) -> int:
    """The number of elements."""
    return input.numel()


def is_floating_point(input: Tensor) -> bool:
    """Whether the elements are floating-point numbers."""
    return input.is_floating_point()


def is_complex(input: Tensor) -> bool:
    """Whether the elements are complex numbers."""
    return input.dtype.kind == "c"


def is_signed(input: Tensor) -> bool:
    """Whether the dtype has negative numbers."""
    return input.dtype.kind == "i" or is_float(input.dtype)


def is_nonzero(input: Tensor) -> bool:
    """Whether the only element differs from 0. Raises ValueError for more or fewer elements."""
    return bool(input.item() != 0)


def is_same_size(input: Tensor, other: Tensor) -> bool:
    """Whether the shapes are equal."""
    return input.shape == other.shape


def get_default_dtype() -> np.dtype:
    """The dtype of what is made from Python's floats: float32. It cannot be changed."""
    return default_dtype


def promote_types(type1: Any, type2: Any) -> np.dtype:
    """The dtype that a sum of tensors of these dtypes has."""
    return _result_dtype(np.empty(1, type1), np.empty(1, type2))


def result_type(tensor1: Any, tensor2: Any) -> np.dtype:
    """The dtype that a sum of these, tensors or Python numbers, has."""
    return _result_dtype(*(t.array if isinstance(t, Tensor) else t for t in (tensor1, tensor2)))


def can_cast(from_: Any, to: Any) -> bool:
    """Whether an in-place operation may write from_'s dtype into to's: no float into integers, no number into bools."""
    order = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2}  # V: bfloat16
    return order[np.dtype(from_).kind] <= order[np.dtype(to).kind]


def detach(input: Tensor) -> Tensor:
    """The same values without what computed them; see `Tensor.detach`."""
    return input.detach()


def real(input: Tensor) -> Tensor:
    """The real part: the tensor itself, as dtrain's numbers are real."""
    return input


def is_conj(input: Tensor) -> bool:
    """Whether the tensor is a conjugate yet to be computed: never."""
    return False


# The conjugate of a real number is itself.
conj = conj_physical = resolve_conj = resolve_neg = real
is_neg = is_conj


def _pin_memory(x: Tensor, device: Any = None) -> Tensor:
    """The tensor itself: on the host no memory needs to be pinned."""
    return x


def _no(x: Tensor) -> bool:
    """False: dtrain has no tensors of this kind."""
    return False


def _ndimension(x: Tensor) -> int:
    """The number of dimensions."""
    return x.ndim


def _stride(x: Tensor, dim: int | None = None) -> Any:
    """How many elements apart neighbours lie in memory, along every dimension or one."""
    strides = tuple(s // x.array.itemsize for s in x.array.strides)
    return strides if dim is None else strides[dim]


def _type(x: Tensor, dtype: Any = None) -> Any:
    """The name of the dtype; with a dtype, `to(dtype)`."""
    return f"dtrain.{x.dtype}" if dtype is None else x.to(np.dtype(dtype))


def _detach(x: Tensor) -> Tensor:
    """Make the tensor a leaf that needs no gradient: what computed it is forgotten."""
    x._node, x.requires_grad = None, False
    return x


def _data_ptr(x: Tensor) -> int:
    """The address of the first element."""
    return int(x.array.ctypes.data)


def _nbytes(x: Tensor) -> int:
    """The number of elements times their bytes."""
    return int(x.array.size * x.array.itemsize)


def _itemsize(x: Tensor) -> int:
    """The bytes of an element."""
    return int(x.array.itemsize)


def _is_cuda(x: Tensor) -> bool:
    """Whether the tensor is on a GPU."""
    return x.device.type == "cuda"


def _is_cpu(x: Tensor) -> bool:
    """Whether the tensor is in the host's memory."""
    return x.device.type == "cpu"


for method in (is_complex, is_nonzero, is_same_size, is_signed):
    setattr(Tensor, method.__name__, method)
for name in ("conj", "conj_physical", "resolve_conj", "resolve_neg"):
    setattr(Tensor, name, real)
for name in ("is_conj", "is_neg", "is_pinned", "is_shared"):
    setattr(Tensor, name, _no)
for name in ("is_meta", "is_mps", "is_quantized", "is_sparse"):
    setattr(Tensor, name, property(_no))
Tensor.pin_memory = _pin_memory  # type: ignore[attr-defined]
Tensor.real = property(real)  # type: ignore[attr-defined]
for name, function in (
    ("data_ptr", _data_ptr), ("detach_", _detach), ("nelement", numel), ("ndimension", _ndimension),
    ("stride", _stride), ("type", _type),
):  # fmt: skip
    setattr(Tensor, name, function)
for name, getter in (("nbytes", _nbytes), ("itemsize", _itemsize), ("is_cuda", _is_cuda), ("is_cpu", _is_cpu)):
    setattr(Tensor, name, property(getter))
