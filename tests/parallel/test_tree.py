"""The tree and the exact all-reduce against the naive sum, by equality of bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtrain.comm import Communicator, run_ranks
from dtrain.data.sampler import microbatch_block
from dtrain.parallel.exact import exact_allreduce
from dtrain.parallel.tree import Block, naive_sum, subtrees


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


def reduce_on(comm: Communicator, microbatches: int, values: list[np.ndarray], factor: float | None) -> bytes:
    """What the ranks make of the leaves: each adds up its block as the plan says, then all meet."""
    held = [Block(microbatch_block(r, comm.size, microbatches)) for r in range(comm.size)]
    block, slots = held[comm.rank], [np.empty_like(values[0]) for _ in range(held[comm.rank].slots)]
    for j, (depth, carries) in zip(microbatch_block(comm.rank, comm.size, microbatches), block.plan, strict=True):
        if not carries:
            slots[depth][:] = values[j]
        else:
            slots[depth - 1] += values[j]
            for slot in range(depth - 2, depth - carries - 1, -1):
                slots[slot] += slots[slot + 1]
    parts = slots[: len(block.nodes)]
    exact_allreduce(comm, [b.nodes for b in held], parts, slots[0], microbatches, lambda: factor)
    return slots[0].tobytes()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_every_rank_gets_the_naive_sum(data: st.DataObject) -> None:
    microbatches = data.draw(st.integers(1, 20), "microbatches")
    size = data.draw(st.integers(1, microbatches), "ranks")
    n = data.draw(st.sampled_from([0, 1, 2, 7, 100, 70_001]), "elements")
    dtype = data.draw(st.sampled_from([np.float32, np.float64]), "dtype")
    factor = data.draw(st.sampled_from([None, 1 / 3]), "factor")
    values = leaves(microbatches, n, dtype)
    want = naive_sum(values)
    want = want if factor is None else want * dtype(factor)
    assert set(run_ranks(size, lambda comm: reduce_on(comm, microbatches, values, factor))) == {want.tobytes()}
