"""Pickles of plain data and tensors, as torch.save writes them and torch.load(weights_only=True) reads them."""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, device
from dtrain.backend import to_numpy
from dtrain.hub.storages import DTYPES
from dtrain.nn import Parameter

__all__ = ["pickled"]

# Opcodes of protocol 2: see the module pickletools.
_PROTO, _STOP, _MARK, _REDUCE, _BINPERSID = b"\x80\x02", b".", b"(", b"R", b"Q"
_EMPTY_DICT, _EMPTY_LIST, _EMPTY_TUPLE, _SETITEMS, _APPENDS, _TUPLE = b"}", b"]", b")", b"u", b"e", b"t"
_CONSTANTS = {None: b"N", True: b"\x88", False: b"\x89"}

_STORAGES = {np.dtype(dtype): storage for storage, (_, _, dtype) in DTYPES.items()}
_NAMES = {np.dtype(dtype): name for name, _, dtype in DTYPES.values()}


def pickled(value: Any) -> tuple[bytes, list[np.ndarray]]:
    """The pickle of `value`, and the arrays of the storages in it: number i has the key str(i).

    value: None, numbers, text, bytes, Tensors, NumPy's scalars (become Python numbers) and arrays (become Tensors),
    dtypes, devices, and dicts, OrderedDicts, Counters, lists, tuples and sets of such; also in cycles.
    A Tensor that comes twice, or two Tensors of the same elements, have one storage.
    Raises TypeError that says what else it has met, and where.
    """
    pickler = _Pickler()
    pickler.put(value, "")
    return b"".join([_PROTO, *pickler.parts, _STOP]), pickler.arrays


class _Pickler:
    """Puts values into `parts`, one after the other."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.arrays: list[np.ndarray] = []
        self.memo: dict[int, int] = {}  # id -> number in the pickle's memo
        self.alive: list[Any] = []  # what has an id in the memo must not go, or another may get its id
        self.keys: dict[tuple[Any, ...], int] = {}  # memory -> number of the storage

    def put(self, value: Any, where: str) -> None:
        """Append a value; where: its place in the whole, for errors."""
        kind = type(value)
        if value is None or kind is bool:
            self.parts.append(_CONSTANTS[value])
        elif kind in (int, float, str):
            self.parts.append(_scalar(value))
        elif isinstance(value, np.generic):
            self.put(value.item(), where)
        elif id(value) in self.memo:
            self.parts.append(b"j" + struct.pack("<I", self.memo[id(value)]))
        elif kind is tuple:
            self.parts.append(_MARK)
            for i, item in enumerate(value):
                self.put(item, f"{where}[{i}]")
            self.parts.append(_TUPLE)
        elif kind is list:
            self.parts.append(_EMPTY_LIST)
            self.remember(value)
            self.parts.append(_MARK)
            for i, item in enumerate(value):
                self.put(item, f"{where}[{i}]")
            self.parts.append(_APPENDS)
        elif kind is dict:
            self.parts.append(_EMPTY_DICT)
            self.remember(value)
            self.items(value, where)
        elif kind is OrderedDict:
            self.call("collections OrderedDict")
            self.remember(value)
            self.items(value, where)
        elif isinstance(value, Tensor):
            self.tensor(value, where)
            self.remember(value)
        elif kind is np.ndarray:
            self.array(value, False, where)
            self.remember(value)
        else:
            self.rest(value, where)

    def rest(self, value: Any, where: str) -> None:
        """Append what is rarer."""
        kind = type(value)
        if kind is Counter:
            self.call("collections Counter", dict(value))
        elif kind is set:
            self.call("__builtin__ set", sorted(value, key=repr))  # the file is the same for the same set
        elif kind is bytes:
            self.call("_codecs encode", value.decode("latin1"), "latin1")
        elif kind is complex:
            self.call("__builtin__ complex", value.real, value.imag)
        elif kind is device:
            self.call("torch device", value.type, *(() if value.index is None else (value.index,)))
        elif isinstance(value, np.dtype) and value.newbyteorder("=") in _NAMES:
            self.name(f"torch {_NAMES[value.newbyteorder('=')]}")
        else:
            raise TypeError(
                f"{where or 'the object'} is a {kind.__module__}.{kind.__qualname__}, which dtrain.save does not do; "
                "save numbers, text, tensors, and dicts, lists, tuples and sets of them: of a model, its state_dict()"
            )

    def remember(self, value: Any) -> None:
        """Put the value that was appended last into the memo: where it comes again, it is the same."""
        self.memo[id(value)] = number = len(self.memo)
        self.alive.append(value)
        self.parts.append(b"r" + struct.pack("<I", number))

    def name(self, name: str) -> None:
        """Append what has this name: "module name"."""
        self.parts.append(b"c" + name.replace(" ", "\n").encode() + b"\n")

    def call(self, name: str, *arguments: Any) -> None:
        """Append what the function of this name makes of the arguments."""
        self.name(name)
        self.put(arguments, name)
        self.parts.append(_REDUCE)

    def items(self, value: dict[Any, Any], where: str) -> None:
        """Append the items of the dict that was appended last."""
        self.parts.append(_MARK)
        for key, item in value.items():
            self.put(key, f"{where}: the key {key!r:.80}")
            self.put(item, f"{where}[{key!r:.80}]")
        self.parts.append(_SETITEMS)

    def tensor(self, value: Tensor, where: str) -> None:
        """Append a Tensor or Parameter."""
        array = to_numpy(value.array)
        if isinstance(value, Parameter):
            self.name("torch._utils _rebuild_parameter")
            self.parts.append(_MARK)
            self.array(array, False, where)
            self.put(value.requires_grad, where)
            self.call("collections OrderedDict")
            self.parts += [_TUPLE, _REDUCE]
        else:
            self.array(array, value.requires_grad, where)

    def array(self, array: np.ndarray, requires_grad: bool, where: str) -> None:
        """Append an array as a Tensor."""
        dtype = array.dtype.newbyteorder("=")
        if dtype not in _STORAGES:
            dtypes = ", ".join(_NAMES.values())
            raise TypeError(
                f"{where or 'the object'} has dtype {array.dtype}, which PyTorch's files do not have; use {dtypes}"
            )
        memory = (array.__array_interface__["data"][0], array.shape, array.strides, dtype)
        if memory not in self.keys:
            self.keys[memory] = len(self.arrays)
            self.arrays.append(array)  # and so it lives, and its memory is no other's
        self.name("torch._utils _rebuild_tensor_v2")
        self.parts += [_MARK, _MARK]
        self.put("storage", where)
        self.name(f"torch {_STORAGES[dtype]}")
        for name in (str(self.keys[memory]), "cpu"):
            self.put(name, where)
        self.put(array.size, where)
        self.parts += [_TUPLE, _BINPERSID]
        strides = tuple(int(np.prod(array.shape[i + 1 :], dtype=np.int64)) for i in range(array.ndim))
        for part in (0, array.shape, strides, requires_grad):
            self.put(part, where)
        self.call("collections OrderedDict")
        self.parts += [_TUPLE, _REDUCE]


def _scalar(value: int | float | str) -> bytes:
    """An int, a float or text."""
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(text)) + text
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if len(data) > 255:
        raise TypeError(f"an int of {value.bit_length()} bits, which PyTorch's files do not hold; save it as text")
    return b"\x8a" + bytes([len(data)]) + data
