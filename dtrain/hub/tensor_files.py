"""Files that hold arrays by name and nothing else: safetensors and NumPy's .npz."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file as _save_file

from dtrain.autograd import Tensor
from dtrain.backend import to_numpy
from dtrain.backend.halves import bfloat16
from dtrain.checkpoint.files import whole
from dtrain.hub.archives import damage_of

__all__ = ["load_file", "read_npz", "save_file"]

# As the file has them, and as they are in memory.
_DTYPES = {
    "F64": ("<f8", "f8"), "F32": ("<f4", "f4"), "F16": ("<f2", "f2"), "BF16": ("<u2", bfloat16),
    "I64": ("<i8", "i8"), "I32": ("<i4", "i4"), "I16": ("<i2", "i2"), "I8": ("i1", "i1"),
    "U64": ("<u8", "u8"), "U32": ("<u4", "u4"), "U16": ("<u2", "u2"), "U8": ("u1", "u1"), "BOOL": ("u1", "?"),
}  # fmt: skip
_DEFLATE_AT_MOST = 1032  # times: what this compression can do, by its format


def load_file(filename: str | Path, device: str = "cpu") -> dict[str, Tensor]:
    """{name: Tensor} of a .safetensors file, as safetensors.torch.load_file.

    Raises ValueError that names the file and what is wrong with it: damaged, or a dtype that dtrain does not have.
    """
    if str(device).split(":")[0] != "cpu":
        raise ValueError(f"device {str(device)!r} is not available; this version computes on 'cpu'")
    try:
        with safe_open(filename, "np"):  # checks the whole header: sizes, order, overlaps
            pass
    except (SafetensorError, OverflowError) as error:
        raise ValueError(f"{filename}: this is no whole safetensors file: {error}") from None
    with open(filename, "rb") as file:
        start = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start))
        header.pop("__metadata__", None)
        return {name: Tensor(_read(file, start + 8, name, entry, filename)) for name, entry in header.items()}


def _read(file: BinaryIO, start: int, name: str, entry: Mapping[str, Any], filename: str | Path) -> np.ndarray:
    """The array of one entry of the header."""
    if entry["dtype"] not in _DTYPES:
        raise ValueError(
            f"{filename}: {name} has dtype {entry['dtype']}, which dtrain does not have; convert it to one of "
            f"{', '.join(_DTYPES)} with PyTorch"
        )
    stored, dtype = _DTYPES[entry["dtype"]]
    array = np.empty(math.prod(entry["shape"]), stored)
    file.seek(start + entry["data_offsets"][0])
    if array.size and file.readinto(array.view("u1")) != array.nbytes:  # type: ignore[attr-defined]
        raise ValueError(f"{filename}: {name} is cut off")
    if entry["dtype"] == "BF16":
        array = array.astype(np.uint16, copy=False).view(bfloat16)
    return array.astype(dtype, copy=False).reshape(entry["shape"])


def save_file(
    tensors: Mapping[str, Tensor | np.ndarray], filename: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write {name: Tensor} to a .safetensors file, whole or not at all, as safetensors.torch.save_file.

    metadata: text by name, default {"format": "pt"}, which Hugging Face's transformers ask for.
    Tensors that share memory are each written in full. Raises TypeError for what is no Tensor or array.
    """
    arrays = {}
    for name, value in tensors.items():
        if not isinstance(value, (Tensor, np.ndarray)):
            raise TypeError(
                f"{name} is a {type(value).__name__}; a safetensors file holds tensors, dtrain.save others too"
            )
        array = to_numpy(value.array if isinstance(value, Tensor) else value)
        arrays[name] = np.ascontiguousarray(array).reshape(array.shape)
    with whole(Path(filename)) as temporary:
        _save_file(arrays, temporary, metadata={"format": "pt"} if metadata is None else dict(metadata))


def read_npz(file: BinaryIO, archive: zipfile.ZipFile, name: str) -> dict[str, Tensor]:
    """{name: Tensor} of a .npz file. name: of the file, for errors.

    Raises ValueError that names the file and what is wrong with it: damaged, or an array of other than numbers.
    """
    result = {}
    file.seek(0, os.SEEK_END)
    for info in archive.infolist():
        what = f"{name}: {info.filename}"
        if info.file_size > _DEFLATE_AT_MOST * min(info.compress_size, file.tell()):
            raise ValueError(f"{what} is damaged: {info.file_size:,} bytes of {info.compress_size:,} compressed ones")
        with damage_of(what), archive.open(info) as member:
            version = np.lib.format.read_magic(member)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(member)
        if dtype.kind not in "fiub":
            raise ValueError(f"{what} is an array of dtype {dtype}; tensors hold numbers: numpy.load may read it")
        if math.prod(shape) * dtype.itemsize > info.file_size:
            raise ValueError(f"{what} is damaged: shape {shape} of {dtype} in {info.file_size:,} bytes")
        with damage_of(what), archive.open(info) as member:
            array = np.lib.format.read_array(member, allow_pickle=False)
        result[info.filename.removesuffix(".npy")] = Tensor(array.astype(dtype.newbyteorder("="), copy=False))
    return result
