"""The kernels of recurrent layers beside the same formulas made of ops, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dtrain.autograd import Tensor, check_grads
from dtrain.ops.packing import pack_rows, pad_rows
from dtrain.ops.recurrent import gru_layer, lstm_layer, rnn_layer

RNG = np.random.default_rng(0)
SIZES = (3, 3, 2, 1)
INPUTS, HIDDEN, PROJECTED = 2, 4, 3


def given(gates: int, states: tuple[int, ...], last: bool = False) -> list[Tensor]:
    """Input, states, weights and biases; last: a projection, too."""
    shapes = [(sum(SIZES), INPUTS), *((SIZES[0], n) for n in states)]
    shapes += [(gates * HIDDEN, INPUTS), (gates * HIDDEN, states[0]), (gates * HIDDEN,), (gates * HIDDEN,)]
    shapes += [(PROJECTED, HIDDEN)] if last else []
    return [Tensor(RNG.standard_normal(shape), True) for shape in shapes]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("layer", "options", "inputs"),
    [
        (rnn_layer, {"nonlinearity": "tanh"}, (1, (HIDDEN,))),
        (rnn_layer, {"nonlinearity": "relu"}, (1, (HIDDEN,))),
        (lstm_layer, {}, (4, (HIDDEN, HIDDEN))),
        (lstm_layer, {}, (4, (PROJECTED, HIDDEN), True)),
        (gru_layer, {}, (3, (HIDDEN,))),
    ],
)
def test_kernels_are_the_formulas(layer: Any, options: Any, inputs: Any, reverse: bool) -> None:
    tensors = given(*inputs)
    options = {**options, "sizes": SIZES, "reverse": reverse}
    formula = layer(*tensors, **options)[0].grad_fn.parents[0].call.rule.formula
    found = []
    for f in (layer, formula):
        for t in tensors:
            t.grad = None
        outputs = f(*tensors, **options)
        sum(((i + 2) * y * y).sum() for i, y in enumerate(outputs)).backward()
        found.append([*outputs, *[t.grad for t in tensors]])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a.array, b.array, rtol=1e-9, atol=1e-12)


def test_rows_that_are_taken_and_put() -> None:
    x, rows = Tensor(RNG.standard_normal((4, 2))), np.array([3, 0, 2])
    check_grads(pack_rows, x, rows)
    check_grads(lambda y: pad_rows(y, rows, 5, 1.5), Tensor(RNG.standard_normal((3, 2))))
    np.testing.assert_array_equal(pad_rows(pack_rows(x, rows), rows, 4, 1.5).array[[0, 2, 3]], x.array[[0, 2, 3]])
    np.testing.assert_array_equal(pad_rows(pack_rows(x, rows), rows, 4, 1.5).array[1], [1.5, 1.5])
