"""Optimizers on a GPU: one kernel for a step, with the bits that the array code has."""

from __future__ import annotations

import numpy as np
import pytest

from dtrain import optim
from dtrain.autograd import Tensor
from dtrain.backend import reference
from dtrain.backend.cuda import fused
from tests.optim.test_optimizers import CASES as FOUR
from tests.optim.test_optimizers import IDS as FOUR_IDS

OTHERS = [
    ("Adadelta", {"weight_decay": 0.1}), ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.5}),
    ("Adamax", {"maximize": True}), ("ASGD", {"weight_decay": 0.1, "t0": 2}), ("NAdam", {}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}), ("RAdam", {"betas": (0.5, 0.9)}),
    ("Rprop", {"lr": 0.02}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "dtype"),
    [*((*case, np.float32) for case in FOUR[::5] + OTHERS), ("AdamW", {}, np.float64)],
    ids=[*FOUR_IDS[::5], *(n for n, _ in OTHERS), "AdamW, float64"],
)
def test_a_step_is_one_kernel_with_the_same_bits(gpu, name, options, dtype, monkeypatch):
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(shape).astype(dtype) for shape in [(3, 5), (), (700,)]]
    here, there = [Tensor(v.copy()) for v in values], [Tensor(gpu.array(v)) for v in values]
    optimizers = [getattr(optim, name)(ps, **options) for ps in (here, there)]
    ran = []
    kernel = fused._kernel
    monkeypatch.setattr(fused, "_kernel", lambda *args: (ran.append(args), kernel(*args))[1])
    for step in range(4):
        for i, v in enumerate(values):
            g = np.asarray(rng.standard_normal(v.shape) * 10.0 ** (step - 2), dtype)
            if step == 3:
                g = np.asarray(np.where(g > 0, g, 0), dtype)
            for ps, a in ((here, g), (there, gpu.array(g))):
                ps[i].receive(a)
        before = gpu.counter.syncs
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        assert gpu.counter.syncs == before and len(ran) == step + 1
    for a, b in zip(here, there, strict=True):
        np.testing.assert_array_equal(gpu.host(b.array), a.array)
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    for i in states[0]:
        for key, value in states[0][i].items():
            other = states[1][i][key]
            np.testing.assert_array_equal(gpu.host(other.array) if isinstance(other, Tensor) else other, value)


def test_what_is_more_than_arithmetic_runs_as_array_code(gpu):
    for function in (
        lambda a, b: a.__isub__(a.max() * b),
        lambda a, b: a.__setitem__(slice(0, 2), b[:2]),
        lambda a, b: a.__iadd__(b**3),
        lambda a, b: a.__imul__(np.float64(0.1) * b),
        lambda a, b: a.__iadd__(b) if (b > 0).all() else a.__isub__(b),
    ):
        x, y = np.linspace(-1, 1, 9).astype(np.float32), np.linspace(0.5, 3, 9).astype(np.float32)
        a, b = gpu.array(x), gpu.array(y)
        fused.each_element(function, a, b)
        reference.each_element(function, x, y)
        np.testing.assert_array_equal(gpu.host(a), x)


def test_what_is_not_finite_and_what_is_written_only(gpu):
    def function(a, b, c):
        xp = a.__array_namespace__() if hasattr(a, "__array_namespace__") else np
        b[...] = a
        a *= 2
        c[...] = xp.sign(xp.clip(b, -1, 1)) + xp.minimum(a, 0.5) + xp.maximum(b, a)
        b += a

    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 3, -2, 0.25], np.float32)
    arrays = [x, np.zeros_like(x), np.zeros_like(x)]
    there = [gpu.array(a) for a in arrays]
    fused.each_element(function, *there)
    with np.errstate(all="ignore"):
        function(*arrays)
    for a, b in zip(arrays, there, strict=True):
        np.testing.assert_array_equal(gpu.host(b), a)
