"""The gradient of a table of vectors; see `reference/table.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.backend import capture
from dtrain.backend.cuda.loader import CTYPES, kernel

__all__ = ["add_at", "embedding_grad"]


def embedding_grad(g: Any, index: Any, rows: int) -> Any:
    """Sum of the rows of g that fall on each row of the table, in the order of their positions. -> (rows, D)"""
    import cupy

    table = cupy.zeros((rows, g.shape[1]), g.dtype)
    if g.size:
        capture.refuse("the gradient of an embedding is sorted by Thrust, which waits for it")
        g, index = cupy.ascontiguousarray(g), cupy.ascontiguousarray(cupy.asarray(index, np.int64))
        order = cupy.argsort(index, kind="stable").astype(np.int64, copy=False)
        run = kernel("table", f"embedding_grad<{CTYPES[g.dtype]}, long long>")
        threads = min(256, -(-g.shape[1] // 32) * 32)
        run(
            (len(index),),
            (threads,),
            (g, index, order, table, np.int64(len(index)), np.int64(g.shape[1]), np.int64(rows)),
        )
    return table


def add_at(values: Any, where: Any, size: int) -> Any:
    """`size` zeros to which values are added at `where`, one after the other. values, where: (N,) -> (size,)"""
    if values.dtype.kind in "biu":
        import cupy

        flat = cupy.zeros(size, np.int64)  # the order of whole numbers does not matter
        cupy.add.at(flat, where, values.astype(np.int64))
        return flat.astype(values.dtype)
    return embedding_grad(values.reshape(-1, 1), where, size).reshape(-1)
