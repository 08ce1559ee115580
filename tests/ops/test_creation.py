"""Functions that make tensors: values, dtypes, shapes; random draws as functions of their key."""

from __future__ import annotations

import numpy as np
import pytest

import dtrain
from dtrain import ops
from dtrain.autograd import no_grad
from dtrain.backend.random import Purpose, key, next_stream

ARRAY = np.arange(6, dtype=np.float64).reshape(2, 3)

CALLS = {
    "tensor": [
        lambda o: o.tensor(1), lambda o: o.tensor(1.5), lambda o: o.tensor(True), lambda o: o.tensor([1, 2]),
        lambda o: o.tensor([1, 2.5]),
        lambda o: o.tensor([[True, False]]), lambda o: o.tensor([]), lambda o: o.tensor([[], []]),
        lambda o: o.tensor(ARRAY),
        lambda o: o.tensor(ARRAY.astype(np.int32)), lambda o: o.tensor([1, 2], dtype=o.float64),
        lambda o: o.tensor([1.7, -1.7], dtype=o.int64),
        lambda o: o.tensor(np.float64(2.5)), lambda o: o.tensor((1, 2)), lambda o: o.tensor([True, 2]),
        lambda o: o.tensor([np.float32(1), 2]),
        lambda o: o.tensor([o.tensor(1.5), o.tensor(2.0)]),
    ],
    "as_tensor": [lambda o: o.as_tensor([1.0, 2]), lambda o: o.as_tensor(ARRAY),
        lambda o: o.as_tensor(o.ones(2), dtype=o.float64)],
    "from_numpy": [lambda o: o.from_numpy(ARRAY), lambda o: o.from_numpy(ARRAY.T)],
    "fill": [lambda o: o.fill(o.zeros(2, 3), 1.5), lambda o: o.fill(o.zeros(2), o.tensor(2))],
    "full": [
        lambda o: o.full((2, 3), 1.5), lambda o: o.full((2,), 1), lambda o: o.full((), True),
        lambda o: o.full((2,), 1, dtype=o.float64),
        lambda o: o.full([0, 2], 1.0),
    ],
    "zeros": [lambda o: o.zeros(2, 3), lambda o: o.zeros((2, 3)), lambda o: o.zeros([2]), lambda o: o.zeros(()),
        lambda o: o.zeros(0, dtype=o.int64)],
    "ones": [lambda o: o.ones(2, 3), lambda o: o.ones((2, 3), dtype=o.float64), lambda o: o.ones(())],
    "eye": [lambda o: o.eye(3), lambda o: o.eye(2, 3), lambda o: o.eye(2, dtype=o.int64)],
    "arange": [
        lambda o: o.arange(5), lambda o: o.arange(1, 5), lambda o: o.arange(1, 6, 2),
        lambda o: o.arange(0.0, 1.0, 0.25),
        lambda o: o.arange(5, 0, -2), lambda o: o.arange(3, dtype=o.float64), lambda o: o.arange(0),
        lambda o: o.arange(1, 2.5, 0.5),
    ],
    "linspace": [lambda o: o.linspace(0, 1, 5), lambda o: o.linspace(-1, 1, 1),
        lambda o: o.linspace(0, 1, 3, dtype=o.float64), lambda o: o.linspace(0, 1, 0)],
    "zeros_like": [lambda o: o.zeros_like(o.ones(2, 3, dtype=o.float64)),
        lambda o: o.zeros_like(o.ones(2), dtype=o.int64)],
    "ones_like": [lambda o: o.ones_like(o.zeros(2, dtype=o.int64))],
    "full_like": [lambda o: o.full_like(o.zeros(2, 2, dtype=o.float64), 3),
        lambda o: o.full_like(o.zeros(2, dtype=o.int64), 3)],
    "logspace": [lambda o: o.logspace(0, 2, 3), lambda o: o.logspace(0, 3, 4, base=2.0, dtype=o.int64)],
    "new_full": [lambda o: o.zeros(2, dtype=o.float64).new_full((2, 3), 1)],
    "new_ones": [lambda o: o.zeros(2, dtype=o.int64).new_ones(2, 3)],
    "new_tensor": [lambda o: o.zeros(2, dtype=o.float64).new_tensor([1, 2])],
    "new_zeros": [lambda o: o.ones(2, dtype=o.float64).new_zeros((2, 3), dtype=o.int64)],
    "scalar_tensor": [lambda o: o.scalar_tensor(2), lambda o: o.scalar_tensor(2, dtype=o.int64)],
}  # fmt: skip
SHAPES_ONLY = {
    "empty": [lambda o: o.empty(2, 3), lambda o: o.empty((0, 2), dtype=o.float64)],
    "empty_like": [lambda o: o.empty_like(o.zeros(2, dtype=o.int64))],
    "new_empty": [lambda o: o.zeros(2, dtype=o.float64).new_empty(2, 3)],
    "rand": [lambda o: o.rand(2, 3), lambda o: o.rand((2,), dtype=o.float64), lambda o: o.rand(())],
    "randn": [lambda o: o.randn(2, 3), lambda o: o.randn([2], dtype=o.float64)],
    "randint": [
        lambda o: o.randint(5, (2, 3)),
        lambda o: o.randint(2, 5, (3,)),
        lambda o: o.randint(0, 9, (2,), dtype=o.int32),
    ],
    "randint_like": [lambda o: o.randint_like(o.zeros(2, dtype=o.float64), 2, 5)],
    "randperm": [lambda o: o.randperm(5)],
    "rand_like": [lambda o: o.rand_like(o.zeros(2, dtype=o.float64))],
    "randn_like": [lambda o: o.randn_like(o.zeros(2))],
}


def test_every_creation_function_is_here_and_at_the_top():
    names = set(ops.creation.__all__)
    assert names == set(CALLS) | set(SHAPES_ONLY)
    assert all(getattr(dtrain, name) is getattr(ops.creation, name) for name in names if not name.startswith("new_"))


@pytest.mark.parametrize("name", CALLS)
def test_values_are_pytorchs(torch, name):
    for i, call in enumerate(CALLS[name]):
        ours, theirs = call(dtrain), call(torch).numpy()
        assert (i, ours.dtype, ours.shape) == (i, theirs.dtype, theirs.shape)
        np.testing.assert_allclose(ours.array, theirs, rtol=1e-6)
        assert not ours.requires_grad


@pytest.mark.parametrize("name", SHAPES_ONLY)
def test_shapes_and_dtypes_are_pytorchs(torch, name):
    for i, call in enumerate(SHAPES_ONLY[name]):
        ours, theirs = call(dtrain), call(torch).numpy()
        assert (i, ours.dtype, ours.shape) == (i, theirs.dtype, theirs.shape)


def test_memory_is_shared_or_copied():
    array = ARRAY.copy()
    copy, view, same = dtrain.tensor(array), dtrain.from_numpy(array), dtrain.as_tensor(array)
    array[0, 0] = 9
    assert (copy[0, 0].item(), view[0, 0].item(), same[0, 0].item()) == (0, 9, 9)
    x = dtrain.ones(2)
    assert dtrain.as_tensor(x) is x
    assert dtrain.tensor(x, requires_grad=True).is_leaf


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: dtrain.tensor("a"), TypeError),
        (lambda: dtrain.tensor([1j]), TypeError),
        (lambda: dtrain.tensor([[1, 2], [3]]), ValueError),
        (lambda: dtrain.tensor([1, 2], requires_grad=True), RuntimeError),
        (lambda: dtrain.zeros(2, device="cuda"), ValueError),
        (lambda: dtrain.from_numpy([1, 2]), TypeError),
        (lambda: dtrain.randn(2, dtype=dtrain.int64), TypeError),
        (lambda: dtrain.zeros(-1), ValueError),
    ],
)
def test_bad_arguments(call, error):
    with pytest.raises(error):
        call()


def test_seed_fixes_all_draws():
    def draws() -> list[np.ndarray]:
        dtrain.manual_seed(5)
        made = [
            dtrain.randn(3),
            dtrain.rand(3),
            dtrain.randint(100, (3,)),
            dtrain.randperm(20),
            dtrain.nn.Linear(2, 3).weight,
        ]
        return [t.array for t in made]

    first = draws()
    for a, b in zip(first, draws(), strict=True):
        np.testing.assert_array_equal(a, b)
    dtrain.manual_seed(6)
    assert not np.array_equal(first[0], dtrain.randn(3).array)
    assert not np.array_equal(dtrain.randn(3).array, dtrain.randn(3).array)


def test_draws_of_one_purpose_do_not_move_another():
    dtrain.manual_seed(1)
    graph = [dtrain.randn(2).array for _ in range(2)]
    dtrain.manual_seed(1)
    with no_grad():  # an evaluation in between
        dtrain.randn(100)
    dtrain.nn.Linear(3, 3)
    next_stream(Purpose.INIT).random(7)
    np.testing.assert_array_equal(dtrain.randn(2).array, graph[0])
    with no_grad():
        dtrain.nn.functional.dropout(dtrain.ones(5))
    np.testing.assert_array_equal(dtrain.randn(2).array, graph[1])


def test_draws_belong_to_step_and_microbatch():
    dtrain.manual_seed(1)
    seen = {}
    for step in range(2):
        for microbatch in range(2):
            key.move_to(step, microbatch)
            seen[step, microbatch] = tuple(dtrain.randn(2).tolist())
    assert len(set(seen.values())) == 4
    key.move_to(0, 1)
    assert tuple(dtrain.randn(2).tolist()) == seen[0, 1]
    dtrain.manual_seed(0)
