"""The tensors of PyTorch's files: a storage is a piece of memory, a tensor a view of one."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any, Literal, NamedTuple

import numpy as np

from dtrain.autograd import Tensor, device
from dtrain.backend import Array
from dtrain.backend.halves import bfloat16, is_float
from dtrain.hub.pickles import Call
from dtrain.nn import Parameter

__all__ = ["DTYPES", "TABLE", "Kind", "Storage", "Storages"]

#: The dtypes of PyTorch that have a storage class, by its name: as the file has them, and as they are in memory.
DTYPES = {
    "DoubleStorage": ("float64", "f8", "f8"),
    "FloatStorage": ("float32", "f4", "f4"),
    "HalfStorage": ("float16", "f2", "f2"),
    "BFloat16Storage": ("bfloat16", "u2", bfloat16),
    "LongStorage": ("int64", "i8", "i8"),
    "IntStorage": ("int32", "i4", "i4"),
    "ShortStorage": ("int16", "i2", "i2"),
    "CharStorage": ("int8", "i1", "i1"),
    "ByteStorage": ("uint8", "u1", "u1"),
    "BoolStorage": ("bool", "u1", "?"),
}


class Kind(NamedTuple):
    """What a storage holds. stored: the dtype in the file, without byte order; dtype: in memory."""

    name: str
    stored: str
    dtype: np.dtype

    @property
    def itemsize(self) -> int:
        return np.dtype(self.stored).itemsize


class Storage:
    """The memory of tensors: `array` (n,), which `fill` gives its values."""

    def __init__(self, kind: Kind, n: int) -> None:
        self.kind, self.array = kind, np.zeros(n, kind.dtype)

    def fill(self, data: Any, order: Literal["<", ">"]) -> None:
        """Take the values from bytes of the byte order "<" or ">"."""
        if self.kind is _UNTYPED and order == ">":
            raise ValueError("a storage without a dtype, in big-endian order; save the file on a little-endian host")
        stored = np.frombuffer(data, np.dtype(self.kind.stored).newbyteorder(order))
        if self.kind.name == "bfloat16":
            self.array.view(np.uint16)[...] = stored
        else:
            self.array[...] = stored


class Storages(dict[str, Storage]):
    """The storages that a pickle names, by key, none larger than the file: `persistent` is for its reader.

    Raises ValueError for what no file of PyTorch's has.
    """

    def __init__(self, nbytes: int) -> None:
        super().__init__()
        self.nbytes, self.named = nbytes, 0

    def persistent(self, identity: Any) -> Storage:
        """("storage", kind, key, device, number of elements[, view]) -> Storage; a view: (key, start, elements)."""
        if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
            what = identity[0] if type(identity) is tuple and identity else identity
            hint = "; it holds a whole model (torch.save(model)), not its state dict" if what == "module" else ""
            raise ValueError(f"the persistent id of something that is no storage: {what!r:.80}{hint}")
        kind, key, _, n = identity[1:5]
        if type(kind) is not Kind or type(key) is not str or not _whole(n):
            raise ValueError(f"a storage that is none: {identity!r:.160}")
        storage = self.get(key)
        if storage is None or not (n or storage.array.size):
            self.named += n * kind.itemsize
            if self.named > self.nbytes:
                raise ValueError(f"storages of {self.named:,} bytes, in a file of {self.nbytes:,}")
            storage = self[key] = Storage(kind, n)
        elif storage.kind != kind or storage.array.size != n:
            raise ValueError(f"storage {key} is of {storage.array.size} {storage.kind.name}, and of {n} {kind.name}")
        if len(identity) == 6 and identity[5] is not None:
            _, start, size = identity[5]
            if not (_whole(start) and _whole(size) and start + size <= n):
                raise ValueError(f"a view from {start} of {size} elements, of a storage of {n}")
            view = Storage(kind, 0)
            view.array = storage.array[start : start + size]
            return view
        return storage


def _whole(n: Any) -> bool:
    return type(n) is int and n >= 0


def _view(array: Array, start: Any, size: Any, strides: Any) -> Array:
    """The elements of `array`, which is 1-D, from `start` on, with this shape and these strides in elements."""
    if type(size) is not tuple or type(strides) is not tuple or len(size) != len(strides):
        raise ValueError(f"a tensor of shape {size!r:.80} and strides {strides!r:.80}")
    if not all(map(_whole, (start, *size, *strides))):
        raise ValueError(f"a tensor of shape {size}, strides {strides}, from element {start}")
    last = start + sum((n - 1) * stride for n, stride in zip(size, strides, strict=True))
    if 0 in size:
        start, last, strides = 0, -1, (0,) * len(size)
    if last >= array.size:
        raise ValueError(f"a tensor of shape {size}, up to element {last} of a storage of {array.size}")
    nbytes = tuple(stride * array.itemsize for stride in strides)
    return np.ndarray(size, array.dtype, array, start * array.itemsize, nbytes)


# -- the functions that PyTorch's pickles call ---------------------------------------------------


def _tensor(
    storage: Any, start: Any, size: Any, strides: Any, requires_grad: Any = False, hooks: Any = None, marks: Any = None
) -> Tensor:
    if type(storage) is not Storage:
        raise ValueError(f"a tensor of a {type(storage).__name__}, which is no storage")
    if storage.kind is _UNTYPED:
        raise ValueError("a tensor without a dtype")
    if marks:
        raise ValueError(f"a tensor that is marked {marks!r:.80}; use tensor.resolve_neg() before it is saved")
    array = _view(storage.array, start, size, strides)
    return Tensor(array, requires_grad is True and is_float(array.dtype))


def _tensor_of_dtype(
    storage: Any, start: Any, size: Any, strides: Any, requires_grad: Any, hooks: Any, dtype: Any, marks: Any = None
) -> Tensor:
    """Of a storage of bytes: for dtypes that have no storage class."""
    if type(storage) is not Storage or storage.kind is not _UNTYPED or not isinstance(dtype, np.dtype) or marks:
        raise ValueError(f"a tensor of dtype {dtype!r:.80}, marked {marks!r:.80}, of no storage of bytes")
    whole = storage.array[: storage.array.size // dtype.itemsize * dtype.itemsize]
    return Tensor(_view(whole.view(dtype), start, size, strides))


def _parameter(data: Any, requires_grad: Any = True, hooks: Any = None, attributes: Any = None) -> Parameter:
    if not isinstance(data, Tensor):
        raise ValueError(f"a parameter of a {type(data).__name__}")
    return Parameter(data, requires_grad is True and data.is_floating_point())


def _of_type(function: Any, kind: Any, arguments: Any, attributes: Any) -> Tensor:
    """A tensor with attributes of its own, which are left out."""
    if function not in _TENSORS.values() or kind not in (_TENSOR, _PARAMETER) or type(arguments) is not tuple:
        raise ValueError("a tensor of a type of its own")
    tensor = function.function(*arguments)
    return _parameter(tensor, tensor.requires_grad) if kind is _PARAMETER and type(tensor) is Tensor else tensor


def _device(kind: Any, index: Any = None) -> device:
    if type(kind) is not str or not (index is None or _whole(index)):
        raise ValueError(f"a device {kind!r:.80}")
    return device(kind if index is None else f"{kind}:{index}")


def _ordered(items: Any = ()) -> OrderedDict:
    """OrderedDict() or OrderedDict([[key, value], ...]), which Python 2 wrote."""
    if type(items) not in (tuple, list) or not all(type(i) in (tuple, list) and type(i[0]) is str for i in items):
        raise ValueError("an OrderedDict of other than text and values")
    return OrderedDict(items)


def _counter(counts: Any = None) -> Counter:
    if counts is not None and not (type(counts) is dict and all(type(n) is int for n in counts.values())):
        raise ValueError("a Counter of other than numbers")
    return Counter(counts)


def _set(items: Any = ()) -> set:
    if type(items) not in (tuple, list) or not all(type(i) in (str, int, float, bool, bytes) for i in items):
        raise ValueError("a set of other than text and numbers")
    return set(items)


def _complex(real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise ValueError("a complex number of other than two floats")
    return complex(real, imaginary)


def _encode(text: Any, encoding: Any) -> bytes:
    """Bytes, as the pickle protocols 0 to 2 write them."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes that are encoded as {encoding!r:.80}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """b"", as the same protocols write it."""
    return b""


def _size(sizes: Any) -> tuple[int, ...]:
    if type(sizes) not in (tuple, list) or not all(map(_whole, sizes)):
        raise ValueError(f"a torch.Size of {sizes!r:.80}")
    return tuple(sizes)


def _table() -> dict[str, Any]:
    """What PyTorch's pickles may name, by "module.name"."""
    table: dict[str, Any] = {
        **_TENSORS,
        "torch._tensor._rebuild_from_type_v2": Call(_of_type),
        "torch._utils._rebuild_parameter_with_state": Call(_parameter),
        "torch.Size": Call(_size),
        "torch.device": Call(_device),
        "torch.Tensor": _TENSOR,
        "torch.nn.parameter.Parameter": _PARAMETER,
        "torch.nn.parameter.Buffer": _TENSOR,
        "torch.storage.UntypedStorage": _UNTYPED,
        "collections.OrderedDict": Call(_ordered),
        "collections.Counter": Call(_counter),
        "_codecs.encode": Call(_encode),
    }
    for module in ("builtins", "__builtin__"):
        table |= {f"{module}.set": Call(_set), f"{module}.complex": Call(_complex)}
        table[f"{module}.bytes"] = Call(_no_bytes)
    for storage, (name, stored, dtype) in DTYPES.items():
        table[f"torch.{storage}"] = Kind(name, stored, np.dtype(dtype))
        table[f"torch.{name}"] = np.dtype(dtype)
    for name in ("uint16", "uint32", "uint64"):
        table[f"torch.{name}"] = np.dtype(name)
    for prefix in ("Complex", "ComplexFloat", "ComplexDouble", "ComplexHalf"):
        table[f"torch.{prefix}Storage"] = _refusal("complex", "torch.view_as_real(x)")
    for name in ("complex32", "complex64", "complex128"):
        table[f"torch.{name}"] = _refusal("complex", "torch.view_as_real(x)")
    for name in ("QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4"):
        table[f"torch.{name}Storage"] = table[f"torch.{name.lower()}"] = _refusal("quantised", "x.dequantize()")
    for name in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e8m0fnu"):
        table[f"torch.float8_{name}"] = _refusal("8-bit floating-point", "x.float()")
    table["torch._utils._rebuild_qtensor"] = _refusal("quantised", "x.dequantize()")
    table["torch._utils._rebuild_sparse_tensor"] = _refusal("sparse", "x.to_dense()")
    table["torch._utils._rebuild_nested_tensor"] = _refusal("nested", "x.to_padded_tensor(0)")
    table["torch._utils._rebuild_meta_tensor_no_storage"] = _refusal("empty (meta)", "their values")
    return table


def _refusal(what: str, instead: str) -> Exception:
    return TypeError(f"dtrain has no {what} tensors; load the file with PyTorch, and save {instead} instead")


_UNTYPED = Kind("bytes", "u1", np.dtype("u1"))
_TENSOR, _PARAMETER = object(), object()  # the types, which stand for themselves only as arguments
_TENSORS = {
    "torch._utils._rebuild_tensor": Call(_tensor),
    "torch._utils._rebuild_tensor_v2": Call(_tensor),
    "torch._utils._rebuild_tensor_v3": Call(_tensor_of_dtype),
    "torch._utils._rebuild_parameter": Call(_parameter),
}
TABLE = _table()
