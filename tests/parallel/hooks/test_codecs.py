"""Each hook against a naive version of what it is to compute, and what they do with numbers that are none."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest

from dtrain.comm import Communicator, run_ranks
from dtrain.parallel.hooks import ErrorFeedback, default_hooks, powerSGD_hook, quantization_hooks, topk_hook
from dtrain.parallel.hooks.powerSGD_hook import orthogonalize
from dtrain.parallel.tree import naive_sum
from tests.parallel.hooks.hooked import HOOKS, call, random_leaves

SHAPES = [(6, 10), (10,), (3, 4, 2)]
N = 60 + 10 + 24


def on_ranks(name: str, leaves: list[np.ndarray], size: int, steps: int = 1) -> list[np.ndarray]:
    """What all ranks get, step by step."""

    def run(comm: Communicator) -> list[np.ndarray]:
        state, hook = HOOKS[name]()
        if isinstance(state, ErrorFeedback):
            state.attach(comm, len(leaves))
        return [call(comm, state, hook, leaves, SHAPES) for _ in range(steps)]

    results = run_ranks(size, run)
    for other in results[1:]:
        assert [a.tobytes() for a in other] == [a.tobytes() for a in results[0]]
    return results[0]


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("microbatches", [3, 5, 8])
def test_formats(microbatches: int, size: int) -> None:
    leaves = random_leaves(microbatches, N)
    (got,) = on_ranks("allreduce", leaves, size)
    assert got.tobytes() == naive_sum(leaves).tobytes()
    (got,) = on_ranks("fp16", leaves, size)
    assert got.tobytes() == naive_sum([leaf.astype(np.float16) for leaf in leaves]).astype(np.float32).tobytes()
    (got,) = on_ranks("bf16", leaves, size)
    assert got.tobytes() == naive_tree([nearest_bf16(leaf) for leaf in leaves], lambda x: nearest_bf16(x)).tobytes()
    (got,) = on_ranks("int8", leaves, size)
    assert got.tobytes() == naive_tree([nearest_int8(leaf) for leaf in leaves], nearest_int8).tobytes()


def naive_tree(leaves: list[np.ndarray], rounding: Any) -> np.ndarray:
    level = leaves
    while len(level) > 1:
        pairs = [rounding(level[i] + level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


def nearest_bf16(x: np.ndarray) -> np.ndarray:
    """By trying: of the float32 with a lower half of zeros that are next to each x the nearer one, ties to even."""
    below = (x.view(np.uint32) & 0xFFFF0000).view(np.float32)
    above = ((x.view(np.uint32) & 0xFFFF0000) + np.uint32(0x10000)).view(np.float32)
    to_below, to_above = (abs(x.astype(np.float64) - y) for y in (below, above))
    even = (below.view(np.uint32) >> 16) % 2 == 0
    return np.where((to_below < to_above) | ((to_below == to_above) & even), below, above)


def nearest_int8(x: np.ndarray) -> np.ndarray:
    """Parameter by parameter, in blocks of 16, one number at a time; those of fewer numbers as they are."""
    out, at = x.copy(), 0
    for size in (math.prod(shape) for shape in SHAPES):
        for start in range(at, at + size if size >= 16 else at, 16):
            block = x[start : min(start + 16, at + size)]
            scale = np.float32(max(abs(block))) / np.float32(127)
            out[start : start + len(block)] = [np.float32(round(float(v / scale))) * scale for v in block]
        at += size
    return out


def test_bf16_keeps_what_is_not_finite_and_rounds_the_rest() -> None:
    """Every upper half of a float32, and its neighbours half a step away."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    for lower in (0, 0x7FFF, 0x8000, 0x8001):
        x = (upper + np.uint32(lower)).view(np.float32)
        got = default_hooks._from_bf16(default_hooks._to_bf16(x))
        assert (np.isnan(got) == np.isnan(x)).all()
        normal = np.isfinite(x) & np.isfinite(got)
        assert (got[normal] == nearest_bf16(x[normal])).all()
        assert (np.isinf(got) & np.isfinite(x)).sum() in (0, 2), "only the largest numbers round to infinity"


@pytest.mark.parametrize("microbatches", [1, 5, 12])
def test_topk_sends_the_largest_and_keeps_the_rest(microbatches: int) -> None:
    leaves, steps = random_leaves(microbatches, N), 4
    got = on_ranks("topk", leaves, min(3, microbatches), steps)
    errors = [np.zeros_like(leaf) for leaf in leaves]
    for step in range(steps):
        sent = []
        for j, leaf in enumerate(leaves):
            x = leaf + errors[j]
            errors[j], at = x.copy(), 0
            for size in (math.prod(shape) for shape in SHAPES):
                k = math.ceil(0.1 * size)
                order = sorted(range(at, at + size), key=lambda i: (-abs(x[i]), i))[:k]
                errors[j][order] = 0
                at += size
            sent.append(x - errors[j])
        assert got[step].tobytes() == naive_sum(sent).tobytes()


def test_topk_of_equal_numbers_takes_the_first() -> None:
    x = np.float32([1, -2, 2, np.nan, 0, -2, 2, 1])
    assert [topk_hook._largest(x, k).tolist() for k in (1, 2, 4, 8)] == [[3], [1, 3], [1, 2, 3, 5], list(range(8))]
    assert topk_hook._largest(np.zeros(5), 2).tolist() == [0, 1]


@pytest.mark.parametrize("name", ["int8 with feedback", "topk", "PowerSGD", "PowerSGD of rank 3"])
def test_what_is_not_sent_stays_in_the_errors(name: str) -> None:
    """The sum of all that was sent and of the errors is the sum of all gradients."""
    steps, microbatches = 6, 4
    state, hook = HOOKS[name]()
    sent, whole = np.zeros(N), np.zeros(N)

    def run(comm: Communicator) -> None:
        state.attach(comm, microbatches)
        for step in range(steps):
            leaves = random_leaves(microbatches, N, seed=step)
            whole[:] += sum(leaf.astype(np.float64) for leaf in leaves)
            sent[:] += call(comm, state, hook, leaves, SHAPES)

    run_ranks(1, run)
    errors, at = np.zeros(N), 0
    for i, size in enumerate(math.prod(shape) for shape in SHAPES):
        if f"p{i}" in state.state_dict()["errors"]:
            errors[at : at + size] = state.state_dict()["errors"][f"p{i}"].numpy().sum(0, dtype=np.float64)
        at += size
    assert np.abs(errors).max() > (0.01 if name != "int8 with feedback" else 0.001), "something was lost on the way"
    slack = {"int8 with feedback": 0.2}.get(name, 1e-4)  # the sums of the tree are rounded to int8 as well
    np.testing.assert_allclose(sent + errors, whole, atol=slack * np.abs(whole).max())


def test_powersgd_sends_matrices_of_low_rank_whole() -> None:
    """Sums of r products of vectors arrive in the first compressed step; zero gradients do no harm to the next ones."""
    rng = np.random.Generator(np.random.Philox(key=1))
    state = powerSGD_hook.PowerSGDState(None, 3, 0, 1)

    def low_rank(r: int) -> np.ndarray:
        return (rng.standard_normal((20, r)) @ rng.standard_normal((r, 30))).astype(np.float32).reshape(-1)

    def run(comm: Communicator) -> None:
        for r in (3, 1, 0, 2, 3):
            leaves = [low_rank(r) * np.float32(j) for j in (1, 2)]
            if r == 3:
                leaves[1] = leaves[0] * np.float32(2)  # otherwise two of rank 3 make one of rank 6
            if r == 2:
                leaves[1] = leaves[1] * 0
            got = call(comm, state, powerSGD_hook.powerSGD_hook, leaves, [(20, 30)])
            np.testing.assert_allclose(got, leaves[0] + leaves[1], atol=1e-3)

    run_ranks(1, run)


@pytest.mark.parametrize("r", [1, 2, 5, 12])
def test_orthogonalize(r: int) -> None:
    rng = np.random.Generator(np.random.Philox(key=r))
    a = (rng.standard_normal((40, r)) * 10.0 ** np.arange(-6, r - 6)).astype(np.float32)
    q = orthogonalize(a)
    np.testing.assert_allclose(q.T @ q, np.eye(r), atol=2e-6)
    # Beside the column's largest element: how a small one is rounded depends on the machine's products.
    assert (abs(q @ (q.T @ a) - a).max(0) <= 1e-5 * abs(a).max(0)).all()
    if r > 2:
        a[:, 1], a[:, 2] = 0, 3 * a[:, 0]
        q = orthogonalize(a)
        assert not q[:, 1:3].any()
        np.testing.assert_allclose(q @ (q.T @ a), a, rtol=1e-4, atol=1e-9)
        whole = orthogonalize(a, instead=rng.standard_normal(a.shape).astype(np.float32))
        np.testing.assert_allclose(whole.T @ whole, np.eye(r), atol=2e-6)


@pytest.mark.parametrize(("name", "bad"), [("fp16", 1e5), ("fp16", np.nan), ("int8", np.inf), ("int8", np.nan)])
def test_numbers_that_a_format_has_not_are_an_error_on_every_rank(name: str, bad: float) -> None:
    leaves = random_leaves(4, N)
    leaves[2][75] = bad

    def run(comm: Communicator) -> None:
        with pytest.raises(FloatingPointError, match="gradient of p2 is inf or NaN in"):
            call(comm, *HOOKS[name](), leaves, SHAPES)
        comm.barrier()

    run_ranks(3, run)


@pytest.mark.parametrize("name", ["bf16", "topk", "PowerSGD of rank 3"])
def test_other_hooks_hand_on_what_is_not_finite(name: str) -> None:
    leaves = random_leaves(4, N)
    leaves[2][5] = np.nan
    assert np.isnan(on_ranks(name, leaves, 2)[0][5])


def test_tiny_numbers_do_not_become_large_ones_in_int8() -> None:
    x = np.float32([1e-45, 2e-44, 1e-43, 1e-40] * 8)

    def run(comm: Communicator) -> np.ndarray:
        return call(comm, None, partial(quantization_hooks.quantization_perchannel_hook, bucket_size=2), [x], [(32,)])

    (got,) = run_ranks(1, run)
    assert (np.abs(got) <= 1.01 * x.reshape(-1, 2).max(1).repeat(2)).all()


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="ratio must be above 0"):
        topk_hook.TopKState(0)
    with pytest.raises(ValueError, match="at least 1"):
        powerSGD_hook.PowerSGDState(matrix_approximation_rank=0)
    with pytest.raises(TypeError, match="process_group must be None"):
        powerSGD_hook.PowerSGDState("group")  # type: ignore[arg-type]
