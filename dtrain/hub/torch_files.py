"""Files of torch.save, in both of its formats, without PyTorch.

Since 1.6 a zip archive, its members stored without compression below one folder:

    NAME/data.pkl       the object, a pickle; a storage in it is ("storage", kind, key, device, elements)
    NAME/data/KEY       the bytes of a storage
    NAME/byteorder      "little" (also where it is missing) or "big"
    NAME/version        "3"

Before, the legacy format: pickles of a magic number, the version 1001, a dict that says the byte order, the object,
and a list of keys; then for each key the number of elements, 8 bytes, and the bytes of the storage.
"""

from __future__ import annotations

import io
import mmap
import pickle
import zipfile
from typing import Any, BinaryIO, Literal

from dtrain.hub.archives import damage_of
from dtrain.hub.pickles import read_pickle
from dtrain.hub.storages import TABLE, Storages

__all__ = ["LEGACY_BEGINS", "read_legacy", "read_zip"]

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
#: How the legacy format begins, whatever pickle protocol it uses.
LEGACY_BEGINS = tuple(pickle.dumps(_MAGIC, protocol) for protocol in range(6))
_ORDERS: dict[bytes, Literal["<", ">"]] = {b"little": "<", b"big": ">"}


def read_zip(file: BinaryIO, archive: zipfile.ZipFile, name: str) -> Any:
    """The object of a zip archive. name: of the file, for errors.

    Raises pickle.UnpicklingError where the pickle asks for more than data, ValueError where the file is damaged.
    """
    members = {info.filename: info for info in archive.infolist()}
    pickles = [member for member in members if member.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise ValueError(
            f"{name}: a zip archive with {len(pickles)} members FOLDER/data.pkl; a file of torch.save has one"
        )
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in members:
        raise ValueError(
            f"{name}: this is a TorchScript program; load it with torch.jit.load, and torch.save its state_dict()"
        )
    file.seek(0, io.SEEK_END)
    nbytes = file.tell()

    def member(path: str) -> bytes:
        info = members.get(folder + path)
        if info is None:
            raise ValueError(f"{name}: {folder}{path} is missing")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > nbytes:
            raise ValueError(
                f"{name}: {folder}{path} is compressed to {info.compress_size:,} bytes, or cut off; torch.save stores "
                f"what it writes as it is, here {info.file_size:,} bytes"
            )
        with damage_of(f"{name}: {folder}{path}"):
            return archive.read(info)

    storages = Storages(nbytes)
    result = read_pickle(io.BytesIO(member("data.pkl")), f"{name}, {folder}data.pkl", TABLE, storages.persistent)
    order = member("byteorder").strip() if f"{folder}byteorder" in members else b"little"
    if order not in _ORDERS:
        raise ValueError(f"{name}: {folder}byteorder is {order[:20]!r}; it should be little or big")
    for key, storage in storages.items():
        data = member(f"data/{key}")
        expected = storage.array.size * storage.kind.itemsize
        if len(data) != expected:
            raise ValueError(f"{name}: {folder}data/{key} has {len(data):,} bytes, of {expected:,} that it should have")
        storage.fill(data, _ORDERS[order])
    return result


def read_legacy(file: BinaryIO, name: str) -> Any:
    """The object of a file in the legacy format, from its position on. name: of the file, for errors.

    Raises pickle.UnpicklingError where the pickle asks for more than data, or a pickle is cut off; ValueError where
    the storages are damaged.
    """
    with _Memory(file) as memory:
        header = [read_pickle(memory.stream, f"{name}, its header", {}) for _ in range(3)]
        if header[:2] != [_MAGIC, _VERSION] or type(header[2]) is not dict:
            raise ValueError(f"{name}: the legacy format begins with {_MAGIC}, {_VERSION}, found {header[:2]}")
        order: Literal["<", ">"] = "<" if header[2].get("little_endian", True) else ">"
        storages = Storages(memory.nbytes)
        result = read_pickle(memory.stream, name, TABLE, storages.persistent)
        keys = read_pickle(memory.stream, f"{name}, the list of storages", {})
        if type(keys) is not list or sorted(map(str, keys)) != sorted(storages):
            raise ValueError(
                f"{name}: the list of storages does not fit: {str(keys)[:80]}, of {str(list(storages))[:80]}"
            )
        for number, key in enumerate(keys):
            storage, what = storages[key], f"storage {number + 1} of {len(keys)}"
            expected = storage.array.size
            n = int.from_bytes(memory.take(8, f"{name}: {what}"), "little" if order == "<" else "big", signed=True)
            if n != expected:
                raise ValueError(f"{name}: {what} has {n:,} elements, of {expected:,} that it should have")
            storage.fill(memory.take(n * storage.kind.itemsize, f"{name}: {what}"), order)
    return result


class _Memory:
    """The content of a file, mapped into memory where that can be done."""

    def __init__(self, file: BinaryIO) -> None:
        position = file.tell()
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            position, content = 0, file.read()
            self.stream: Any = io.BytesIO(content)
            self.nbytes = len(content)
        else:
            self.stream, self.nbytes = mapped, len(mapped)
            self.stream.seek(position)

    def __enter__(self) -> _Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def take(self, n: int, what: str) -> bytes:
        """The next n bytes. Raises ValueError where the file ends before."""
        data = self.stream.read(n)
        if len(data) != n:
            raise ValueError(f"{what} is cut off: it has {len(data):,} bytes, of {n:,} that it should have")
        return data
