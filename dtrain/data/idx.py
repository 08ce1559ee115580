"""Reading IDX files, the format of MNIST: a magic number, the lengths of the axes, the bytes.

http://yann.lecun.com/exdb/mnist describes it: two zero bytes, the type (8: unsigned byte), the
number of axes, one big-endian 32-bit length per axis, then the data, last axis fastest.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_idx", "read_images_and_labels", "unpacked"]


def unpacked(data: bytes, name: str | Path) -> bytes:
    """`data` decompressed if it is gzip, else as it is. ValueError: truncated or damaged."""
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error, struct.error) as error:
        raise ValueError(
            f"{name}: found {len(data)} bytes of damaged or truncated gzip ({error}), expected a whole .gz file"
        ) from None


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """The unsigned bytes of an IDX file, plain or gzip, as an array of `ndim` axes.

    Raises ValueError that names the file, what was found and what was expected.
    """
    content = unpacked(path.read_bytes(), path)
    magic, header = bytes([0, 0, 8, ndim]), 4 + 4 * ndim
    if content[:4] != magic:
        raise ValueError(
            f"{path}: found magic number 0x{content[:4].hex()}, expected 0x{magic.hex()} "
            f"(IDX, unsigned bytes, {ndim} axes)"
        )
    if len(content) < header:
        raise ValueError(f"{path}: found {len(content)} bytes, expected a header of {header}")
    shape = struct.unpack(f">{ndim}I", content[4:header])
    expected = header + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise ValueError(f"{path}: found {len(content)} bytes, expected {expected} for shape {tuple(shape)}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_images_and_labels(images: Path, labels: Path, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(N, 28, 28) uint8 images, (N,) int64 labels below `classes`; ValueError for anything else."""
    x = read_idx(images, ndim=3)
    y: NDArray[Any] = read_idx(labels, ndim=1)
    if x.shape[1:] != (28, 28):
        raise ValueError(f"{images}: found images of {x.shape[1:]} pixels, expected (28, 28)")
    if len(x) != len(y):
        raise ValueError(f"{labels}: found {len(y)} labels, expected {len(x)}, as in {images}")
    if len(y) and y.max() >= classes:
        raise ValueError(f"{labels}: found label {y.max()}, expected 0 to {classes - 1}")
    return x, y.astype(np.int64)
