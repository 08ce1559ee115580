"""Files of torch.save, made by hand: valid ones and others, without PyTorch."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

MAGIC = 0x1950A86A20F9469CFC6C


def text(value: str) -> bytes:
    """The opcode of a text."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    """The opcode of an int."""
    return pickle.dumps(value, 2)[2:-1]


def numbers(*values: int) -> bytes:
    """The opcodes of a tuple of ints."""
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(n: int, kind: str = "FloatStorage", key: str = "0", rest: bytes = b"") -> bytes:
    """The opcodes of a storage of n elements."""
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(n) + rest + b"tQ"


def tensor(memory: bytes, start: int, size: tuple[int, ...], strides: tuple[int, ...], rest: bytes = b"\x89N") -> bytes:
    """The opcodes of a tensor."""
    arguments = memory + number(start) + numbers(*size) + numbers(*strides) + rest
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def zipped(opcodes: bytes, storages: Mapping[str, bytes] | None = None, **members: bytes) -> bytes:
    """A file in the zip format: the pickle of these opcodes, and the storages."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + opcodes + b".")
        for key, data in (storages or {}).items():
            archive.writestr(f"a/data/{key}", data)
        for name, data in members.items():
            archive.writestr(f"a/{name}", data)
    return file.getvalue()


def legacy(
    opcodes: bytes,
    storages: Mapping[str, bytes] | None = None,
    itemsize: int = 4,
    little: bool = True,
    protocol: int = 2,
) -> bytes:
    """A file in the legacy format: the pickle of these opcodes, and the storages."""
    header: list[Any] = [MAGIC, 1001, {"protocol_version": 1001, "little_endian": little, "type_sizes": {"int": 4}}]
    parts = [pickle.dumps(part, protocol) for part in header]
    parts.append(b"\x80\x02" + opcodes + b".")
    parts.append(pickle.dumps(list(storages or {}), protocol))
    for data in (storages or {}).values():
        parts.append((len(data) // itemsize).to_bytes(8, "little" if little else "big") + data)
    return b"".join(parts)
