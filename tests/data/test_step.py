"""What leads from a Tensor to the other microbatches of its step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from dtrain.data import DataLoader


class Pair(NamedTuple):
    first: np.ndarray
    second: list[np.ndarray]


@pytest.mark.parametrize("threads", [{"num_workers": 0}, {"num_workers": 3, "prefetch": 4}])
def test_siblings_are_what_the_loader_gives_later(threads):
    asked = []

    class Numbers:
        def __len__(self):
            return 23

        def __getitem__(self, i):
            asked.append(i)
            return {"pair": Pair(np.array([i]), [np.array([i, i])]), "name": str(i)}

    loader = DataLoader(Numbers(), 10, comm=SimpleNamespace(rank=1, size=2), microbatches=7, **threads)
    known, batches = {}, 0
    for batch in loader:
        first, (second,) = batch["pair"]
        assert first.microbatch == second.microbatch
        number, of = first.microbatch
        if number == 3:
            known = {m: [x.microbatch.sibling(m) for x in (first, second)] for m in (6, 4, 5)}
        else:
            assert known[number][0] is first and known[number][1] is second
        batches += 1
    assert (batches, of) == (12, 7)
    # Each once; where a microbatch has no sample, one is looked at for the shapes.
    own = [list(range(10 * k, 10 * k + 10))[6:] for k in range(2)] + [[]]
    assert sorted(asked) == sorted(i for step in own for i in step) + [20] * 4


def test_what_another_rank_has_is_not_known():
    for x in DataLoader(list(range(8)), 8, comm=SimpleNamespace(rank=0, size=2), microbatches=4):
        with pytest.raises(RuntimeError, match=r"has the microbatches \[0, 1\] of 4, and is asked for number 2"):
            x.microbatch.sibling(2)
