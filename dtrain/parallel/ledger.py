"""The divergence ledger: every so many steps, do all ranks still hold the same bits?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from xxhash import xxh3_64_intdigest

from dtrain.backend import Array, to_numpy
from dtrain.comm import Communicator

__all__ = ["Divergence", "Ledger", "hash_of"]


def hash_of(array: Array) -> int:
    """A 64-bit hash (XXH3) of an array's bytes: equal for equal bits, so +0 and -0 differ, and equal NaNs do not."""
    return xxh3_64_intdigest(np.ascontiguousarray(to_numpy(array)).reshape(-1).view(np.uint8).data)


class Divergence(RuntimeError):
    """Ranks have different bits where all must have the same.

    step, phase, name: of the first tensor that differs. ranks: those that differ from the majority; all of
    them where there is none. hashes: `hash_of` the tensor, by rank. element: the first index that differs, and
    values: what each rank has there; None and [] where the elements are equal when they are read again.
    """

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.step: int = facts["step"]
        self.phase: str = facts["phase"]
        self.name: str = facts["name"]
        self.ranks: list[int] = facts["ranks"]
        self.hashes: list[int] = facts["hashes"]
        self.element: tuple[int, ...] | None = facts["element"]
        self.values: list[Any] = facts["values"]


class Ledger:
    """Compares over ranks, by hash, what has the same bits on all of them unless memory, a library or a script
    has failed: the gradients after their reduction, and, before the next step, parameters and buffers.

    every: steps from one comparison to the next. One costs a pass over the memory and one collective of 16
    bytes per tensor; on one rank there is nothing to compare. Raises ValueError for `every` below 1.
    """

    def __init__(self, comm: Communicator, every: int) -> None:
        if every < 1:
            raise ValueError(f"the ledger compares every so many steps, at least 1; got {every}")
        self.comm, self.every = comm, every

    def is_due(self, steps: int) -> bool:
        """Whether to compare when so many steps are done."""
        return self.comm.size > 1 and steps > 0 and steps % self.every == 0

    def compare(self, step: int, tensors: Iterable[tuple[str, str, Array]]) -> None:
        """Compare tensors, (phase, name, array), over ranks, in this order. All ranks call this.

        Raises Divergence, the same on every rank, for the first that differs.
        """
        entries = list(tensors)
        hashes = np.array([hash_of(array) for _, _, array in entries], np.uint64)
        # The least of all hashes, and the least of their complements, which is that of the greatest.
        bounds = np.concatenate([hashes, ~hashes])
        self.comm.allreduce_(bounds, "min")
        least, greatest = np.split(bounds, 2)
        differing = np.flatnonzero(least != ~greatest).tolist()
        if differing:
            first, *others = differing
            self._report(step, entries[first], int(hashes[first]), [entries[i][1] for i in others])

    def _report(self, step: int, entry: tuple[str, str, Array], hashed: int, others: list[str]) -> None:
        phase, name, array = entry
        comm = self.comm
        hashes = comm.all_gather_object(hashed)
        common, count = Counter(hashes).most_common(1)[0]
        majority = [r for r, h in enumerate(hashes) if h == common] if 2 * count > comm.size else []
        ranks = [r for r in range(comm.size) if r not in majority]
        root = (majority or ranks)[0]
        suspect = next(r for r in ranks if hashes[r] != hashes[root])
        mine = to_numpy(array).reshape(-1)
        theirs = mine.copy()
        comm.broadcast_(theirs, root)
        bits = f"u{mine.itemsize}"
        wrong = np.flatnonzero(mine.view(bits) != theirs.view(bits))
        where, number = comm.all_gather_object((int(wrong[0]) if wrong.size else 0, wrong.size))[suspect]
        element, values = None, []
        if number:
            element = tuple(int(i) for i in np.unravel_index(where, array.shape))
            values = comm.all_gather_object(mine[where])
            shown = [f"{v!s} (0x{v.view(bits):0{2 * v.itemsize}x})" for v in values]
            text = f"element {list(element)}: " + ", ".join(f"rank {r} has {shown[r]}" for r in ranks)
            if majority:
                text += f", the majority ({', '.join(map(str, majority))}) has {shown[root]}"
            else:
                text += "; without a majority it cannot be said which is wrong"
            text += f"; {number} of its {mine.size} elements differ"
        else:
            text = f"by its hash on rank {suspect}, but not when its elements are read again"
        if others:
            text += f", and {len(others)} more tensors: {', '.join(others[:5])}{', ...' if len(others) > 5 else ''}"
        raise Divergence(
            f"the ranks differ in step {step}, {phase}: {name}, {text}",
            step=step, phase=phase, name=name, ranks=ranks, hashes=hashes, element=element, values=values,
        )  # fmt: skip
