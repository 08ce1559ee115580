"""Every op of the table: gradients against finite differences, values and gradients against PyTorch."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import ops
from dtrain.autograd import Tensor, backward, check_grads
from dtrain.nn import functional
from tests.ops.cases import CASES, Case, fixed
from tests.parity.baseline import baseline

TESTS = Path(__file__).parents[1]

OPS = [
    getattr(ops, name) for name in ops.__all__ if name not in ("creation", "dropout", "in_place", "methods", "recorded")
]
OURS = SimpleNamespace(**{name: getattr(m, name) for m in OPS for name in m.__all__})
OURS.batch_norm, OURS.full = functional.batch_norm, dtrain.full  # in PyTorch's order of arguments


def test_every_op_is_compared_with_pytorch():
    names = {name for module in OPS for name in module.__all__}
    rows = {case.name for case in CASES}
    assert rows <= names
    # By PyTorch's own sample inputs ("nn.functional.pad.constant", "max.binary"), or in a test of its own.
    by_parity = {part for name in baseline("ops") for part in name.split(".")}
    files = [file for file in TESTS.rglob("*.py") if file.parent.name != "parity"]
    by_name = set(re.findall(r"\w+", "\n".join(file.read_text() for file in files)))
    assert not names - rows - by_parity - by_name, "put a row into tests/ops/cases.py, or write a test"


def flat(result: Any) -> list[Any]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


def of_tensors(case: Case, make: Any, dtype: Any) -> tuple[list[Any], list[Any]]:
    """The case's inputs, and those among them that are differentiated."""
    inputs, varied = [], []
    for x in case.arrays(dtype):
        if isinstance(x, fixed):
            x = make(x.array.copy())
        elif isinstance(x, np.ndarray):
            x = make(x).requires_grad_()
            varied.append(x)
        inputs.append(x)
    return inputs, varied


@pytest.mark.parametrize("case", [c for c in CASES if c.smooth], ids=str)
def test_gradients_are_those_of_finite_differences(case):
    inputs, varied = of_tensors(case, Tensor, np.float64)
    if not any(isinstance(o, Tensor) and o.requires_grad for o in flat(case.run(OURS, *inputs))):
        assert case.name in {
            "all", "any", "argmax", "argmin", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "eq", "ne",
            "lt", "le", "gt", "ge", "isfinite", "isnan", "logical_and",
            "logical_not", "logical_or",
        }  # fmt: skip
        return
    places = [i for i, x in enumerate(inputs) if any(x is v for v in varied)]

    def function(*given: Any) -> Any:
        args = list(inputs)
        for i, x in zip(places, given, strict=True):
            args[i] = x
        return case.run(OURS, *args)

    if any(np.isnan(o.array).any() for o in flat(function(*varied)) if o.array.dtype.kind == "f"):
        return  # the mean of nothing: compared with PyTorch alone
    check_grads(function, *varied, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-5)], ids=["f64", "f32"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_as_pytorch(torch, case, dtype, tolerance):
    theirs = SimpleNamespace(**{**vars(torch), **vars(torch.nn.functional)})
    inputs, varied = of_tensors(case, Tensor, dtype)
    their_inputs, their_varied = of_tensors(case, torch.from_numpy, dtype)
    got = flat(case.run(OURS, *inputs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = flat(case.run(theirs, *their_inputs))
    assert len(got) == len(want)
    near = {"rtol": tolerance, "atol": tolerance, "equal_nan": True}
    for g, w in zip(got, want, strict=True):
        assert g.shape == tuple(w.shape)
        assert g.dtype == w.detach().numpy().dtype
        np.testing.assert_allclose(g.array, w.detach().numpy(), **near)
        assert g.requires_grad == w.requires_grad
    recorded = [i for i, w in enumerate(want) if w.requires_grad]
    if not recorded:
        return
    rng = np.random.default_rng(1)
    seeds = [rng.standard_normal(want[i].shape).astype(dtype) for i in recorded]
    backward([got[i] for i in recorded], [Tensor(np.array(s)) for s in seeds])
    torch.autograd.backward([want[i] for i in recorded], [torch.from_numpy(np.array(s)) for s in seeds])
    for x, t in zip(varied, their_varied, strict=True):
        if t.grad is None:
            assert x.grad is None
            continue
        assert x.grad.shape == x.shape
        assert x.grad.dtype == x.dtype
        np.testing.assert_allclose(x.grad.array, t.grad.numpy(), **near)
