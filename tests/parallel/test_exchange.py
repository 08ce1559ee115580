"""Every way to exchange subtree sums against the naive sum of all leaves, by equality of bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtrain.comm import Communicator, run_ranks
from dtrain.data.sampler import microbatch_block
from dtrain.parallel.exchange import (
    Exchange,
    FastExchange,
    HostsExchange,
    MessageExchange,
    SharedExchange,
    SmallExchange,
    open_exchange,
    plan_rows,
)
from dtrain.parallel.tree import naive_sum
from tests.parallel.test_tree import leaves

HEADER = 2  # elements before the mean begins


def exchange_on(
    comm: Communicator, kind: type[Exchange], values: Sequence[np.ndarray], cuts: Sequence[int], mean: bool
) -> bytes:
    """What this rank gets: it adds up its block as the plan says, then all ranks meet, slice by slice."""
    microbatches, n, dtype = len(values), values[0].size, values[0].dtype
    plan, rows = plan_rows(comm, microbatches, kind is not FastExchange)
    exchange = kind(comm, microbatches, list(np.zeros((rows, n), dtype)), HEADER if mean else None)
    for turn in range(3):  # a later one must not see anything of those before
        for j, (depth, carries) in zip(microbatch_block(comm.rank, comm.size, microbatches), plan, strict=True):
            if not carries:
                exchange.rows[depth][:] = values[j] * dtype.type(2**turn)
            else:
                exchange.rows[depth - 1] += values[j] * dtype.type(2**turn)
                for row in range(depth - 2, depth - carries - 1, -1):
                    exchange.rows[row] += exchange.rows[row + 1]
        ends = [0, n] if exchange.at_once else cuts
        requests = [comm.start(exchange.all_reduce, slice(a, b)) for a, b in zip(ends, ends[1:], strict=False)]
        for request in requests:
            request.wait()
        result = exchange.rows[0].copy()
        comm.barrier()
    return result.tobytes()


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_every_rank_gets_the_naive_sum(data: st.DataObject) -> None:
    microbatches = data.draw(st.integers(1, 20), "microbatches")
    size = data.draw(st.integers(1, min(microbatches, 6)), "ranks")
    hosts = data.draw(st.lists(st.sampled_from("abc"), min_size=size, max_size=size), "host of each rank")
    n = data.draw(st.sampled_from([3, 4, 7, 100, 70_001]), "elements")
    cuts = [0, *sorted(data.draw(st.lists(st.integers(HEADER + 1, n), max_size=3), "cuts")), n]
    dtype = data.draw(st.sampled_from([np.float32, np.float64]), "dtype")
    mean = data.draw(st.booleans(), "mean")
    kinds: list[type[Exchange]] = [MessageExchange]
    if len(set(hosts)) == 1 and size > 1:
        kinds += [SharedExchange, SmallExchange]
    if size > 1:
        kinds.append(HostsExchange)
    values = leaves(microbatches, n, dtype)
    for j, value in enumerate(values):
        value[0] = j + 1
    want = 4 * naive_sum(values)
    if mean:
        want[HEADER:] *= dtype(1 / float(want[0]))
    kind = data.draw(st.sampled_from(kinds), "kind")
    assert set(run_ranks(size, lambda c: exchange_on(c, kind, values, cuts, mean), hosts=hosts)) == {want.tobytes()}


def test_the_fast_mode_is_right_within_rounding() -> None:
    values = leaves(7, 1001, np.float64)
    want = 4 * naive_sum(values)
    for got in run_ranks(3, lambda comm: exchange_on(comm, FastExchange, values, [0, 500, 1001], False)):
        np.testing.assert_allclose(np.frombuffer(got), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("hosts", "n", "overlap", "exact", "kind"),
    [
        ("a", 10, False, True, MessageExchange),
        ("aa", 10, False, True, SmallExchange),
        ("aa", 10_000, False, True, SharedExchange),
        ("aa", 10, True, True, MessageExchange),
        ("ab", 10, True, True, MessageExchange),
        ("aab", 10, True, True, HostsExchange),
        ("aabb", 10, False, True, HostsExchange),
        ("aabb", 10, True, False, FastExchange),
    ],
)
def test_which_exchange_serves_which_ranks(
    hosts: str, n: int, overlap: bool, exact: bool, kind: type[Exchange]
) -> None:
    def which(comm: Communicator) -> type[Exchange]:
        return type(open_exchange(comm, 4, list(np.zeros((4, n), np.float32)), None, exact=exact, overlap=overlap))

    assert run_ranks(len(hosts), which, hosts=list(hosts)) == [kind] * len(hosts)
