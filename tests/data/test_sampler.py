"""Who owns which microbatches and samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtrain.data.sampler import cut, epoch_order, microbatch_block


@given(st.integers(1, 40).flatmap(lambda m: st.tuples(st.integers(1, m), st.just(m))))
def test_blocks_of_all_ranks_are_all_microbatches_in_order(sizes):
    size, microbatches = sizes
    blocks = [microbatch_block(rank, size, microbatches) for rank in range(size)]
    assert [m for block in blocks for m in block] == list(range(microbatches))
    assert all(len(block) >= 1 for block in blocks)


@given(st.integers(0, 50), st.integers(1, 20))
def test_cut_is_numpys_array_split(n, parts):
    pieces = [list(range(lo, hi)) for lo, hi in cut(n, parts)]
    assert pieces == [piece.tolist() for piece in np.array_split(np.arange(n), parts)]


@pytest.mark.parametrize(
    ("rank", "size", "microbatches", "message"),
    [
        (0, 64, 8, "64 ranks but 8 microbatches.*at least 64 microbatches or at most 8 ranks"),
        (0, 1, 0, "microbatches must be at least 1, got 0"),
        (2, 2, 4, "rank 2 does not exist among 2 ranks"),
    ],
)
def test_block_errors(rank, size, microbatches, message):
    with pytest.raises(ValueError, match=message):
        microbatch_block(rank, size, microbatches)


def test_order_is_a_function_of_seed_and_epoch():
    orders = [epoch_order(seed, epoch, 100, True) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({order.tobytes() for order in orders}) == 4
    np.testing.assert_array_equal(epoch_order(1, 0, 100, True), orders[2])
    np.testing.assert_array_equal(epoch_order(1, 7, 4, False), [0, 1, 2, 3])
    assert orders[0].dtype == epoch_order(0, 0, 3, False).dtype == np.int64
