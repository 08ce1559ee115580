"""Which samples belong to which step, microbatch and rank: pure functions of numbers.

A step's samples follow from (seed, epoch, step) alone. They are cut into M microbatches, and rank r
of P owns the contiguous microbatches [rM/P, (r+1)M/P). So the samples of microbatch m never depend
on the number of ranks.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dtrain.backend.random import Purpose, stream

__all__ = ["cut", "epoch_order", "microbatch_block"]


def microbatch_block(rank: int, size: int, microbatches: int) -> range:
    """The microbatches of a step that a rank owns: range(rank*M//size, (rank+1)*M//size).

    Raises ValueError when there are fewer microbatches than ranks, or no such rank.
    """
    if microbatches < 1:
        raise ValueError(f"microbatches must be at least 1, got {microbatches}")
    if not 0 <= rank < size:
        raise ValueError(f"rank {rank} does not exist among {size} ranks; ranks count from 0")
    if size > microbatches:
        raise ValueError(
            f"{size} ranks but {microbatches} microbatches: every rank needs at least one; "
            f"use at least {size} microbatches or at most {microbatches} ranks"
        )
    return range(rank * microbatches // size, (rank + 1) * microbatches // size)


def cut(n: int, parts: int) -> list[tuple[int, int]]:
    """`n` items as `parts` contiguous, nearly equal pieces (lo, hi).

    The first n % parts pieces are one longer, as in np.array_split: piece 0 is empty only for n 0.
    """
    length, longer = divmod(n, parts)
    bounds = [part * length + min(part, longer) for part in range(parts + 1)]
    return list(pairwise(bounds))


def epoch_order(seed: int, epoch: int, n: int, shuffle: bool) -> NDArray[np.int64]:
    """The sample numbers of an epoch in the order in which the steps take them; (n,) int64."""
    if not shuffle:
        return np.arange(n, dtype=np.int64)
    return stream(seed, Purpose.SHUFFLE, epoch).permutation(n).astype(np.int64, copy=False)
