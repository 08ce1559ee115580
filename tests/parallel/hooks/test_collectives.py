"""Sums and gathers over microbatches against the naive ones, by equality of bytes, for any ranks and hosts."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dtrain.comm import Communicator, run_ranks
from dtrain.parallel.hooks.collectives import MicrobatchMessages
from dtrain.parallel.tree import naive_sum
from tests.parallel.hooks.hooked import random_leaves


def join(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """An addition that shows its order: rows of (hash, ...) where a hash is that of the two below."""
    return a * 31 + b * 17 + 1


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_every_rank_gets_the_naive_result(data: st.DataObject) -> None:
    microbatches = data.draw(st.integers(1, 13), "microbatches")
    size = data.draw(st.integers(1, min(6, microbatches)), "ranks")
    hosts = data.draw(st.lists(st.sampled_from("abc"), min_size=size, max_size=size), "hosts")
    n = data.draw(st.sampled_from([0, 1, 2, 7, 1000]), "elements")
    kind: Any = data.draw(st.sampled_from([np.float16, np.float32, np.float64, "join"]), "kind")
    leaves = random_leaves(microbatches, 3 * n)
    if kind == "join":
        leaves = [leaf.view(np.uint32).reshape(n, 3) for leaf in leaves]
        add: Any = join
    else:
        leaves, add = [leaf.astype(kind) for leaf in leaves], np.add

    def run(comm: Communicator) -> tuple[bytes, list[bytes]]:
        messages = MicrobatchMessages(comm, microbatches)
        own = {j: leaves[j].copy() for j in messages.block}
        total = messages.all_reduce(comm, own, add)
        gathered = messages.all_gather(comm, {j: leaf.reshape(-1) for j, leaf in own.items()})
        assert all(own[j].tobytes() == leaves[j].tobytes() for j in own), "arguments stay as they are"
        assert total.dtype == leaves[0].dtype and total.shape == leaves[0].shape
        return total.tobytes(), [payload.tobytes() for payload in gathered]

    want = naive(leaves, add).tobytes(), [leaf.tobytes() for leaf in leaves]
    assert run_ranks(size, run, hosts=hosts) == [want] * size


def naive(leaves: list[np.ndarray], add: Any) -> np.ndarray:
    if add is np.add:
        return naive_sum(leaves)
    level = leaves
    while len(level) > 1:
        pairs = [add(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


def test_between_hosts_a_sum_moves_once_per_host() -> None:
    """2 n (H - 1) / H bytes leave a host, of however many ranks; what travels within it comes on top."""
    n, hosts = 1 << 12, "aaabbb"

    def run(comm: Communicator) -> tuple[int, int]:
        lane: Any = comm.lane_group()
        messages = MicrobatchMessages(comm, 6)
        within: Any = messages.here
        between, inside = type(comm.traffic)(), type(comm.traffic)()
        messages.lane.traffic, within.traffic = between, inside  # type: ignore[union-attr]
        assert lane.size == 2
        messages.all_reduce(comm, {j: np.ones(n, np.float16) for j in messages.block})
        return between.bytes_sent, comm.traffic.bytes_sent

    sent = run_ranks(6, run, hosts=hosts)
    # Three microbatches of a host are two subtrees: half as much again in the first half of the way.
    assert sum(b for b, _ in sent[:3]) + sum(b for b, _ in sent[3:]) == 2 * (2 * n + n) and all(not c for _, c in sent)
