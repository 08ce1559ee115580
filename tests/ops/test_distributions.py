"""Draws: their moments, the bytes of a seed, and what is refused. Shapes and dtypes are compared in tests/parity."""

from __future__ import annotations

import numpy as np
import pytest

import dtrain
from dtrain.ops.distributions import IN_PLACE

N = 100_000

# What each draw's numbers come to: a function of them, and its expectation.
IN_PLACE_DRAWS = {
    "bernoulli_": ((0.3,), [(np.mean, 0.3), (np.max, 1)]),
    "cauchy_": ((2.0, 3.0), [(np.median, 2.0), (lambda a: np.mean(np.abs(a - 2) < 3), 0.5)]),
    "exponential_": ((2.0,), [(np.mean, 0.5), (np.var, 0.25)]),
    "geometric_": ((0.25,), [(np.mean, 4.0), (np.min, 1), (lambda a: np.mean(a == 1), 0.25)]),
    "log_normal_": ((1.0, 0.5), [(lambda a: np.log(a).mean(), 1.0), (lambda a: np.log(a).std(), 0.5)]),
    "normal_": ((-1.0, 2.0), [(np.mean, -1.0), (np.std, 2.0)]),
    "random_": ((3, 7), [(np.mean, 4.5), (np.min, 3), (np.max, 6)]),
    "uniform_": ((-2.0, 4.0), [(np.mean, 1.0), (np.var, 3.0)]),
}
FUNCTIONS = {
    "bernoulli": lambda: dtrain.bernoulli(dtrain.full((N,), 0.3)),
    "multinomial": lambda: dtrain.multinomial(dtrain.tensor([1.0, 0.0, 3.0]), N, replacement=True),
    "multinomial of rows": lambda: dtrain.multinomial(dtrain.ones(N // 10, 5), 3),
    "normal": lambda: dtrain.normal(dtrain.zeros(N), dtrain.full((N,), 2.0)),
    "normal of numbers": lambda: dtrain.normal(1.0, 2.0, (N,)),
}


def test_all_draws_in_place_are_tested():
    assert set(IN_PLACE) == set(IN_PLACE_DRAWS)


@pytest.mark.parametrize("dtype", [dtrain.float32, dtrain.float64])
@pytest.mark.parametrize(("name", "args", "facts"), [(k, *v) for k, v in IN_PLACE_DRAWS.items()])
def test_moments_of_draws_in_place(name, args, facts, dtype):
    dtrain.manual_seed(5)
    x = dtrain.empty(N, dtype=dtype)
    assert getattr(x, name)(*args) is x and x.dtype == dtype
    for fact, want in facts:
        assert abs(fact(x.numpy()) - want) < 0.03 * max(1, abs(want)), (name, fact)


@pytest.mark.parametrize("draw", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_seed_gives_the_same_bytes(draw):
    found = []
    for seed in (1, 1, 2):
        dtrain.manual_seed(seed)
        found.append(draw().numpy().tobytes())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("name", IN_PLACE_DRAWS)
def test_a_seed_gives_the_same_bytes_in_place(name):
    found = []
    for seed in (1, 1, 2):
        dtrain.manual_seed(seed)
        found.append(getattr(dtrain.empty(50), name)(*IN_PLACE_DRAWS[name][0]).numpy().tobytes())
    assert found[0] == found[1] != found[2]


def test_moments_of_normal():
    dtrain.manual_seed(3)
    mean, std = dtrain.tensor([[-3.0], [5.0]]), dtrain.full((N,), 2.0, dtype=dtrain.float64)
    drawn = dtrain.normal(mean, std)
    assert drawn.shape == (2, N) and drawn.dtype == dtrain.float32
    np.testing.assert_allclose(drawn.numpy().mean(1), [-3, 5], atol=0.03)
    np.testing.assert_allclose(drawn.numpy().std(1), [2, 2], atol=0.03)
    assert dtrain.normal(1.0, std[:3]).dtype == dtrain.float64
    dtrain.manual_seed(3)
    numbers = dtrain.normal(0.0, 1.0, (4,))
    dtrain.manual_seed(3)
    assert (numbers == dtrain.randn(4)).all()


def test_multinomial_follows_the_weights():
    dtrain.manual_seed(2)
    weights = dtrain.tensor([[1.0, 0, 3], [2, 2, 0]])
    counts = np.stack([np.bincount(row, minlength=3) for row in dtrain.multinomial(weights, N, True).numpy()])
    np.testing.assert_allclose(counts / N, [[0.25, 0, 0.75], [0.5, 0.5, 0]], atol=0.01)
    pairs = dtrain.multinomial(dtrain.tensor([1.0, 1, 2]).broadcast_to((N, 3)), 2).numpy()
    assert (pairs[:, 0] != pairs[:, 1]).all()
    # First 2 with chance 1/2; second 2 where it was not first: 1/2 * 2/3.
    np.testing.assert_allclose((pairs == 2).mean(0), [1 / 2, 1 / 3], atol=0.01)
    last = dtrain.multinomial(dtrain.tensor([0.0, 1, 0, 1]), 4).numpy()
    assert set(last[:2]) == {1, 3} and set(last[2:]) == {0, 2}


def test_gradients_of_draws_are_zero():
    p = dtrain.full((3,), 0.5, requires_grad=True)
    dtrain.bernoulli(p).sum().backward()
    dtrain.normal(p, 1.0).sum().backward()
    dtrain.normal(1.0, p).sum().backward()
    (p * 2).exponential_().sum().backward()
    assert (p.grad == 0).all()


def test_draws_of_whole_numbers():
    dtrain.manual_seed(0)
    assert dtrain.empty(1000, dtype=dtrain.bool).random_().numpy().mean() == pytest.approx(0.5, abs=0.06)
    assert dtrain.empty(1000, dtype=dtrain.uint8).random_().numpy().max() > 250
    assert dtrain.empty(1000).random_().numpy().max() > 2**23
    assert set(dtrain.empty(100, dtype=dtrain.int64).random_(3).tolist()) == {0, 1, 2}
    assert dtrain.empty(100, dtype=dtrain.int8).random_(120, None).numpy().min() >= 120
    assert set(dtrain.empty(50, dtype=dtrain.int64).bernoulli_().tolist()) == {0, 1}


X = dtrain.ones(3)


@pytest.mark.parametrize(("error", "call"), [
    ("normal needs std >= 0, got -1", lambda: dtrain.normal(X, -1)),
    ("normal needs std >= 0, got -1", lambda: dtrain.normal(X, -X)),
    (r"mean of shape \(3,\) and std of shape \(2,\)", lambda: dtrain.normal(X, dtrain.ones(2))),
    ("give a size", lambda: dtrain.normal(0.0, 1.0)),
    ("is that of tensors", lambda: dtrain.normal(X, 1.0, (3,))),
    ("normal needs a floating-point dtype, got int64", lambda: dtrain.normal(X.long())),
    ("probabilities in floating point, got int64", lambda: dtrain.bernoulli(X.long())),
    (r"probabilities in \[0, 1\]", lambda: dtrain.bernoulli(X * 2)),
    (r"shapes \(2,\) and \(3,\) do not broadcast", lambda: X.bernoulli_(dtrain.ones(2))),
    (r"needs weights of shape \(n,\) or \(m, n\), got \(1, 1, 3\)", lambda: dtrain.multinomial(X[None, None], 1)),
    ("4 samples of 3 categories", lambda: dtrain.multinomial(X, 4)),
    ("0 samples of 3 categories", lambda: dtrain.multinomial(X, 0)),
    ("must be finite and not negative", lambda: dtrain.multinomial(-X, 1)),
    ("needs one above 0", lambda: dtrain.multinomial(X * 0, 1, True)),
    ("floating-point weights, got int64", lambda: dtrain.multinomial(X.long(), 1)),
    ("a <= b, got a=1 and b=0", lambda: X.uniform_(1, 0)),
    ("std >= 0, got -1", lambda: X.normal_(0, -1)),
    ("lambd > 0, got 0", lambda: X.exponential_(0)),
    ("needs a floating-point tensor, got int64", lambda: X.long().exponential_()),
    ("sigma > 0, got 0", lambda: X.cauchy_(0, 0)),
    ("std > 0, got 0", lambda: X.log_normal_(0, 0)),
    ("between 0 and 1, got 1", lambda: X.geometric_(1)),
    ("low < high, got 5 and 5", lambda: X.random_(5, 5)),
    ("0 to 299 do not all fit into uint8, which holds 0 to 255", lambda: X.byte().random_(0, 300)),
    ("random_ takes high, or low and high", lambda: X.random_(1, 2, 3)),
])  # fmt: skip
def test_refused(error, call):
    with pytest.raises((RuntimeError, TypeError, ValueError), match=error):
        call()
