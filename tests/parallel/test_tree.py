"""The tree against the naive sum, by equality of bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtrain.data.sampler import microbatch_block
from dtrain.parallel.tree import Additions, Block, naive_sum, subtrees

__all__ = ["leaves"]


def leaves(microbatches: int, n: int, dtype: type = np.float32) -> list[np.ndarray]:
    """Numbers of very different sizes, so that another order of summation shows."""
    rng = np.random.Generator(np.random.Philox(key=microbatches))
    return [(rng.standard_normal(n) * 10.0 ** rng.integers(-4, 5, n)).astype(dtype) for _ in range(microbatches)]


def test_another_order_gives_other_bits() -> None:
    """Otherwise the tests below would show nothing."""
    values = leaves(12, 100)
    assert sum(values[1:], values[0]).tobytes() != naive_sum(values).tobytes()


@pytest.mark.parametrize("microbatches", range(1, 33))
def test_blocks_end_in_the_largest_subtrees(microbatches: int) -> None:
    for size in range(1, microbatches + 1):
        covered: list[int] = []
        for rank in range(size):
            block = microbatch_block(rank, size, microbatches)
            nodes = Block(block).nodes
            assert nodes == subtrees(block)
            assert len(nodes) <= Block(block).slots <= 2 * max(1, len(block).bit_length())
            covered += [j for level, i in nodes for j in range(i << level, (i + 1) << level)]
        assert covered == list(range(microbatches))


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_rows_are_added_along_the_tree_in_any_grouping(data: st.DataObject) -> None:
    """Some rows are added first, as within a host, then what remains: each time all that the tree allows."""
    microbatches = data.draw(st.integers(1, 24), "microbatches")
    group = data.draw(st.lists(st.integers(0, 2), min_size=microbatches, max_size=microbatches), "group of each")
    values = leaves(microbatches, 5)
    nodes, rows = [], []
    for g in range(3):
        mine = [j for j in range(microbatches) if group[j] == g]
        some = Additions([(0, j) for j in mine], microbatches)
        rows += some.make([values[j].copy() for j in mine])
        nodes += some.rest_nodes
    out = np.empty(5, np.float32)
    whole = Additions(nodes, microbatches)
    assert len(whole.rest) == 1
    whole.finish(rows, out)
    assert out.tobytes() == naive_sum(values).tobytes()
