"""Writing small IDX files."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

__all__ = ["idx_bytes", "write_idx_set"]


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx_set(folder: Path, n: int = 20, packed: bool = True) -> None:
    """n training and n // 2 test images; image i has pixels i % 256 and label i % 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, length in (("train", n), ("t10k", n // 2)):
        values = np.arange(length)
        images = np.broadcast_to(values[:, None, None], (length, 28, 28))
        for name, array in (("images-idx3", images), ("labels-idx1", values % 10)):
            data = idx_bytes(array)
            path = folder / f"{part}-{name}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
