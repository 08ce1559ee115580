"""Updates of optimizers on a CPU as compiled loops: the bits of the array code, and what goes on being array code."""

from __future__ import annotations

import numpy as np
import pytest

from dtrain import optim
from dtrain.autograd import Tensor
from dtrain.backend import reference, xp_of
from dtrain.backend.cpu import fused
from tests.backend.cuda.test_fused import OTHERS
from tests.optim.test_optimizers import CASES, IDS

pytestmark = pytest.mark.skipif(fused._llvm() is None, reason="no LLVM: pip install llvmlite")
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 3, -2, 0.25]


@pytest.fixture
def compiled(monkeypatch) -> list[str]:
    """The texts of the loops that ran; also over few elements."""
    ran, compiled = [], fused._compiled
    monkeypatch.setattr(fused, "_MANY", 1)
    monkeypatch.setattr(fused, "_compiled", lambda *args: (ran.append(args[0]), compiled(*args))[1])
    return ran


@pytest.mark.parametrize(
    ("name", "options", "dtype"),
    [*((*case, np.float32) for case in CASES + OTHERS), ("AdamW", {}, np.float64)],
    ids=[*IDS, *(n for n, _ in OTHERS), "AdamW, float64"],
)
def test_a_step_has_the_bits_of_array_code(compiled, name, options, dtype, monkeypatch):
    results = []
    for _ in range(2):
        rng = np.random.default_rng(0)
        p = Tensor(rng.standard_normal(777).astype(dtype))
        optimizer = getattr(optim, name)([p], **options)
        for step in range(4):
            g = (rng.standard_normal(p.shape) * 10.0 ** (step - 2)).astype(dtype)
            p.receive(np.where(g > 0, g, 0) if step == 3 else g)
            optimizer.step()
            optimizer.zero_grad()
        state = optimizer.state_dict()["state"][0].values()
        results.append([a.array.tobytes() for a in (p, *state) if isinstance(a, Tensor)])
        assert len(compiled) == 4
        monkeypatch.setattr(fused, "_MANY", 1 << 60)
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_not_finite_and_arrays_that_are_one(compiled, dtype):
    def function(a, b, c, d):
        xp = xp_of(a)
        b[...] = a
        a *= 2
        c[...] = xp.sign(xp.clip(b, -1, 1)) + xp.minimum(a, 0.5) + xp.maximum(b, abs(a)) - xp.square(-a)
        b += a
        c *= a > 0
        c += xp.where(b < 0.1, a, 3.0) + xp.where(a, b, d)
        d /= xp.sqrt(a)

    rng = np.random.default_rng(0)
    there = [rng.choice(SPECIAL, 1003).astype(dtype) for _ in range(3)]
    here = [x.copy() for x in there]
    with np.errstate(all="ignore"):
        fused.each_element(function, *there, there[2])
        x = here[2].copy()  # what is read is what was given
        function(*here[:3], x)
    assert len(compiled) == 1
    for a, b in zip([*here[:2], x], there, strict=True):
        np.testing.assert_array_equal(b, a)


def test_what_is_more_than_arithmetic_runs_as_array_code(compiled):
    wide = np.linspace(0, 1, 50, dtype=np.float32)
    for function in (
        lambda a, b: a.__isub__(a.max() * b),
        lambda a, b: a.__setitem__(slice(0, 2), b[:2]),
        lambda a, b: a.__iadd__(b**3),
        lambda a, b: a.__iadd__(np.sqrt(b)),
        lambda a, b: a.__iadd__((a > 0) & (b > 0)),
        lambda a, b: a.__iadd__(np.where(b > 1, a, b)),
        lambda a, b: a.__imul__(np.float64(0.1) * b),
        lambda a, b: a.__iadd__(wide),
        lambda a, b: a.__iadd__(b) if (b > 0).all() else a.__isub__(b),
    ):
        x, y = np.linspace(-1, 1, 50, dtype=np.float32), np.linspace(0.5, 3, 50, dtype=np.float32)
        a = x.copy()
        fused.each_element(function, a, y)
        function(x, y)
        np.testing.assert_array_equal(a, x)
    steps = np.linspace(-1, 1, 100, dtype=np.float32)
    for other in (steps[::2], steps[:50].astype(np.float16)):
        b = wide.astype(other.dtype)
        fused.each_element(lambda a, b: a.__iadd__(b), b, other)
        np.testing.assert_array_equal(b, wide.astype(other.dtype) + other)
    assert not compiled
    with pytest.raises(TypeError, match="loop with signature"):
        fused.each_element(lambda a, b: a.__iadd__(b + "x"), wide.copy(), wide)
    fused.each_element(lambda a: a.__iadd__(1), wide, only_if=np.array(False))
    assert wide[0] == 0 and not compiled


def test_without_llvm_it_is_array_code(monkeypatch):
    monkeypatch.setattr(fused, "_llvm", lambda: None)
    x = np.ones(fused._MANY, np.float32)
    fused.each_element(lambda a: a.__iadd__(1), x, only_if=np.array(True))
    reference.each_element(lambda a: a.__imul__(2), x)
    assert (x == 4).all()
