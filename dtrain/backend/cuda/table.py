"""The gradient of a table of vectors; see `reference/table.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.backend.cuda.loader import CTYPES, kernel, wide

__all__ = ["add_at", "embedding_grad"]

_TILE = 2048  # keys that a block sorts; TILE in table.cu
_PIECE = 32  # positions that a block adds up


def _sorted(index: Any, rows: int) -> tuple[Any, Any]:
    """The rows in rising order, `rows` for what is outside of the table, and the positions where they were."""
    import cupy

    n, blocks = len(index), -(-len(index) // _TILE)
    counts = cupy.empty(256 * blocks, np.int32)
    keys, order, kind, sizes = index, np.uintp(0), CTYPES[index.dtype], (np.int64(n), np.int32(rows))
    for shift in range(0, max(1, rows.bit_length()), 8):
        kernel("table", f"count_digits<{kind}>")((blocks,), (256,), (keys, counts, *sizes, np.int32(shift)))
        kernel("table", "sum_before")((1,), (1024,), (counts, np.int64(len(counts))))
        found, positions = cupy.empty((2, n), np.int32)
        args = keys, order, counts, found, positions, *sizes, np.int32(shift)
        kernel("table", f"move_keys<{kind}>")((blocks,), (256,), args)
        keys, order, kind = found, positions, "int"
    return keys, order


def embedding_grad(g: Any, index: Any, rows: int, out: Any = None) -> Any:
    """Sum of the rows of g that fall on each row of the table, in the order of their positions. -> (rows, D)

    out: an array that it may be written to, and then is.
    """
    import cupy

    table = cupy.zeros((rows, g.shape[1]), g.dtype) if out is None else out
    if out is not None:
        table[...] = 0
    if g.size:
        g, columns, C = cupy.ascontiguousarray(g), g.shape[1], CTYPES[g.dtype]
        keys, order = _sorted(cupy.ascontiguousarray(cupy.asarray(index, np.int64)), rows)
        pieces = -(-len(keys) // _PIECE)
        heads, tails = cupy.empty((2, pieces, columns), wide(g.dtype))
        sizes = np.int64(len(keys)), np.int64(columns), np.int32(rows), np.int32(_PIECE)
        block = (min(256, -(-columns // 32) * 32),)
        kernel("table", f"sum_pieces<{C}>")((pieces,), block, (g, keys, order, table, heads, tails, *sizes))
        kernel("table", f"join_pieces<{C}>")((pieces,), block, (keys, table, heads, tails, *sizes))
    return table


def add_at(values: Any, where: Any, size: int) -> Any:
    """`size` zeros to which values are added at `where`, one after the other. values, where: (N,) -> (size,)"""
    if values.dtype.kind in "biu":
        import cupy

        flat = cupy.zeros(size, np.int64)  # the order of whole numbers does not matter
        cupy.add.at(flat, where, values.astype(np.int64))
        return flat.astype(values.dtype)
    return embedding_grad(values.reshape(-1, 1), where, size).reshape(-1)
