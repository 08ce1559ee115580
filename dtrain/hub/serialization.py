"""`dtrain.load` and `dtrain.save`: files of tensors and plain data, as torch.load and torch.save have them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dtrain.backend import to_device
from dtrain.backend.halves import bfloat16
from dtrain.checkpoint.files import whole
from dtrain.hub.archives import damage_of
from dtrain.hub.pickling import pickled
from dtrain.hub.tensor_files import load_file, read_npz
from dtrain.hub.torch_files import LEGACY_BEGINS, read_legacy, read_zip

__all__ = ["load", "save"]

_ALIGNMENT = 64  # bytes: where the data of a member begins in a zip archive of PyTorch's
_LOCAL_HEADER = 30  # bytes, before the name


def load(
    f: str | os.PathLike[str] | BinaryIO,
    map_location: str | Mapping[str, str] | Callable[..., Any] | None = None,
    weights_only: bool = True,
) -> Any:
    """What a file holds: of torch.save or dtrain.save in either format (.pt, .pth), of safetensors, or .npz.

    f: a path, or a file that is open for reading bytes and can seek. The format is found by the content, not the name.
    map_location: a device; tensors are made there whatever device they were saved from, by default on "cpu", the only
    one so far. A dict or a function, as torch.load takes them, is accepted and means "cpu" too.
    weights_only: False allows no more than True does: dtrain runs nothing that a file asks for, ever.

    Tensors that shared memory share it again. A torch.Size becomes a tuple, a torch.dtype NumPy's; attributes of
    tensors are left out.

    Raises pickle.UnpicklingError that names what the file asks for beyond data (a class, a function: of a model, save
    the state_dict), or where its pickle is cut off; ValueError where it is damaged otherwise, or of another format;
    both with the file's name. Format: torch/serialization.py of PyTorch 2.13, and safetensors 0.4.
    """
    if isinstance(map_location, str):
        to_device(np.empty(0), map_location)  # raises ValueError where there is no such device
    if isinstance(f, (str, os.PathLike)):
        with open(f, "rb") as file:
            return _load(file, os.fspath(f))
    return _load(f, str(getattr(f, "name", None) or f"a {type(f).__name__}"))


def _load(file: BinaryIO, name: str) -> Any:
    begin = file.tell()
    head = file.read(64)
    file.seek(begin)
    if head.startswith(LEGACY_BEGINS):
        return read_legacy(file, name)
    if head.startswith(b"PK"):
        with damage_of(f"{name}: this zip archive"):
            archive = zipfile.ZipFile(file)
        with archive:
            members = archive.namelist()
            npz = members and all(member.endswith(".npy") for member in members)
            return read_npz(file, archive, name) if npz else read_zip(file, archive, name)
    if head[8:9] == b"{" and isinstance(name, str) and os.path.isfile(name):
        return load_file(name)
    raise ValueError(f"{name}: {_what(head)}; dtrain.load reads files of torch.save, safetensors and .npz")


def _what(head: bytes) -> str:
    """What a file is that is none of the formats, by its first bytes."""
    if not head:
        return "the file is empty"
    if head[8:9] == b"{":
        return "safetensors are read from a file on the disk, not from an open one"
    if head[:1] == b"\x80" or head[:1] in b"(cd]}":
        return "a pickle, but not one of torch.save, which alone is made of plain data"
    if head[:1] == b"<":
        return f"this is a page of the web or XML, {head[:16]!r}; was there no such file where it was downloaded?"
    if head.startswith(b"version https"):
        return "this is a pointer of Git LFS, not the file that it points to; use git lfs pull"
    if head.startswith(b"\x93NUMPY"):
        return "one array of NumPy's; numpy.load reads it"
    return f"it begins with {head[:16]!r}"


def save(obj: Any, f: str | os.PathLike[str] | BinaryIO) -> None:
    """Write `obj` to a file that dtrain.load and torch.load (weights_only=True, too) read: PyTorch's zip format.

    obj: a Tensor, a number, text, None, or a dict, list, tuple or set of such, nested as you like: state dicts of
    models and optimizers, {"model": ..., "optimizer": ..., "epoch": 3}. NumPy's arrays become Tensors, its scalars
    Python numbers. f: a path, which is written whole or not at all, or a file that is open for writing bytes.
    Tensors of the same elements of the same memory (tied weights) are written once, and share memory when loaded.
    Raises TypeError that says what else `obj` holds, and where; then no file is touched.
    """
    pickle, arrays = pickled(obj)
    if not isinstance(f, (str, os.PathLike)):
        _write(f, pickle, arrays)
        return
    with whole(Path(f)) as temporary, temporary.open("wb") as file:
        _write(file, pickle, arrays)


def _write(file: BinaryIO, pickle: bytes, arrays: list[np.ndarray]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _member(archive, "archive/data.pkl", pickle)
        _member(archive, "archive/byteorder", b"little")
        for key, array in enumerate(arrays):
            values = np.ascontiguousarray(array).reshape(-1)
            values = values.view(np.uint16) if array.dtype == bfloat16 else values
            values = values.astype(values.dtype.newbyteorder("<"), copy=False)
            _member(archive, f"archive/data/{key}", values.view(np.uint8).data if values.size else b"")
        _member(archive, "archive/version", b"3\n")


def _member(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    """Write a member, its data at a multiple of _ALIGNMENT: torch.load(mmap=True) then has aligned tensors."""
    info = zipfile.ZipInfo(name)  # with a fixed date: the same object gives the same bytes
    info.file_size = len(data)
    large = 20 if len(data) * 1.05 > zipfile.ZIP64_LIMIT else 0  # bytes of sizes that zipfile adds
    assert archive.fp is not None
    begin = archive.fp.tell() + _LOCAL_HEADER + len(name) + large
    padding = (-begin - 4) % _ALIGNMENT
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    with archive.open(info, "w") as member:
        member.write(data)
