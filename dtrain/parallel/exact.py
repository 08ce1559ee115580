"""The exact all-reduce: subtree sums in, the root of the fixed tree out, on every rank.

Rank r finishes the tree on the r-th share of the elements: all-to-all of the subtree sums, additions,
all-gather. Where every rank holds one subtree this moves as many bytes as a ring all-reduce.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dtrain.backend import Array
from dtrain.comm import Communicator, shares
from dtrain.parallel.tree import Node, finish

__all__ = ["CHUNK", "exact_allreduce"]

# Elements finished at a time: as many sums as there are ranks stay in the cache.
CHUNK = 1 << 15


def exact_allreduce(
    comm: Communicator,
    held: Sequence[Sequence[Node]],
    parts: Sequence[Array],
    out: Array,
    microbatches: int,
    scale: Callable[[], float | None],
) -> None:
    """out = scale() * (sum over all microbatches along the tree), the same bits on every rank.

    held[r]: the subtrees of rank r, from left to right; parts: the sums of this rank's, 1-D arrays of
    out's size, overwritten; out may be parts[0]. scale is asked after the sums have arrived; None: 1.
    """
    cuts = shares(out.size, comm.size)
    lo, hi = cuts[comm.rank], cuts[comm.rank + 1]
    if comm.size == 1:
        rows = list(parts)
    else:
        sizes = [b - a for a, b in zip(cuts, cuts[1:], strict=False)]
        send = parts[0] if len(parts) == 1 else _interleave(parts, cuts)
        received = comm.all_to_all(
            send, [len(parts) * size for size in sizes], [len(nodes) * (hi - lo) for nodes in held]
        )
        rows = list(received.reshape(-1, hi - lo)) if hi > lo else [out[lo:hi]] * sum(map(len, held))
    nodes = [node for nodes in held for node in nodes]
    factor = scale()
    mine = out[lo:hi]
    for start in range(0, hi - lo, CHUNK):
        part = slice(start, start + CHUNK)
        total = mine[part]
        finish({node: row[part] for node, row in zip(nodes, rows, strict=True)}, microbatches, total)
        if factor is not None:
            total *= out.dtype.type(factor)
    if comm.size > 1:
        comm.all_gather_(out, cuts)


def _interleave(parts: Sequence[Array], cuts: Sequence[int]) -> Array:
    """What each rank is to get, in order of rank: its share of every part."""
    return np.concatenate([part[a:b] for a, b in zip(cuts, cuts[1:], strict=False) for part in parts])
