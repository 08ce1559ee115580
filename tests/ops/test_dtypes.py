"""Dtypes of results: PyTorch's promotion, float32 by default, float64 kept by every op and layer."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.autograd import Tensor
from tests.ops.cases import CASES
from tests.ops.test_ops import OURS, flat, of_tensors

F32, F64, F16 = np.float32, np.float64, np.float16
I64, I32, I8, U8, B = np.int64, np.int32, np.int8, np.uint8, np.bool_

# (an operand is a dtype with a number of dimensions, or a Python number), the dtype of the sum in PyTorch
PROMOTIONS = [
    ((F32, 1), 1, F32), ((F32, 1), 1.5, F32), ((F64, 1), 1.5, F64), ((I64, 1), 1.5, F32), ((I64, 1), 1, I64),
    ((I32, 1), 1, I32),
    ((B, 1), 1, I64), ((B, 1), 1.5, F32), ((I64, 1), True, I64), ((U8, 1), 1, U8), ((U8, 1), 1.5, F32),
    ((F16, 1), 1.5, F16),
    ((F32, 1), (F64, 0), F32), ((F32, 0), (F64, 1), F64), ((F32, 0), (F64, 0), F64), ((F32, 1), (F64, 1), F64),
    ((I64, 1), (F32, 0), F32), ((I64, 1), (F64, 0), F64), ((I64, 1), (F32, 1), F32), ((I32, 1), (I64, 0), I32),
    ((I32, 1), (I64, 1), I64), ((U8, 1), (I8, 1), np.int16), ((B, 1), (U8, 1), U8), ((B, 1), (F32, 0), F32),
    ((F16, 1), (F32, 1), F32),
    ((F16, 1), (F32, 0), F16), ((F32, 0), 1.5, F32), ((F16, 0), 2, F16), ((I64, 0), 2.5, F32),
    ((I64, 0), (F32, 1), F32), ((F64, 0), 1, F64),
    ((I8, 1), (F16, 1), F16), ((B, 0), 1, I64), ((U8, 0), (I64, 1), I64), ((U8, 1), (I64, 0), U8),
]  # fmt: skip
OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]


def operand(spec: Any, make: Any) -> Any:
    if not isinstance(spec, tuple):
        return spec
    dtype, ndim = spec
    return make(np.ones((2,) * ndim, dtype))


@pytest.mark.parametrize(("x", "y", "want"), PROMOTIONS)
def test_promotion(x, y, want):
    for a, b in ((x, y), (y, x)):
        assert (operand(a, Tensor) + operand(b, Tensor)).dtype == want
    assert dtrain.where(Tensor(np.array([True, False])), operand(x, Tensor), operand(y, Tensor)).dtype == want


@pytest.mark.parametrize(("x", "y", "want"), PROMOTIONS)
def test_promotion_is_pytorchs(torch, x, y, want):
    for function in (*OPERATORS, operator.eq, operator.lt):
        for a, b in ((x, y), (y, x)):
            left, right = operand(a, torch.from_numpy), operand(b, torch.from_numpy)
            try:
                theirs = function(left, right)
            except RuntimeError:  # bool - bool
                continue
            ours = function(operand(a, Tensor), operand(b, Tensor))
            assert (function, ours.dtype) == (function, theirs.numpy().dtype)
            np.testing.assert_array_equal(ours.array, theirs.numpy())


@pytest.mark.parametrize("dtype", [B, U8, I8, I32, I64, F16, F32, F64])
def test_functions_of_one_argument_give_pytorchs_dtypes(torch, dtype):
    values = np.array([[1, 0], [1, 1]], dtype)
    for name in ("exp", "log1p", "sqrt", "sin", "cos", "tanh", "sigmoid", "sum", "all", "any", "isnan", "logical_not"):
        theirs = getattr(torch, name)(torch.from_numpy(values))
        ours = getattr(dtrain, name)(Tensor(values))
        # PyTorch gives uint8 for all() and any() of uint8, a relic.
        want = np.bool_ if name in ("all", "any") else theirs.numpy().dtype
        assert (name, ours.dtype) == (name, want)
        np.testing.assert_allclose(ours.array, theirs.numpy().astype(want), rtol=2e-3 if dtype == F16 else 1e-6)


@pytest.mark.parametrize("dtype", [F64, F32])
def test_every_op_keeps_the_dtype(dtype):
    for case in CASES:
        inputs, varied = of_tensors(case, Tensor, dtype)
        results = flat(case.run(OURS, *inputs))
        total = sum((o.sum() for o in results if o.requires_grad), Tensor(np.zeros((), dtype)))
        if total.requires_grad:
            total.backward()
        made = [o for o in results if o.is_floating_point()] + [x.grad for x in varied if x.grad is not None]
        assert (str(case), {t.dtype for t in made} or {np.dtype(dtype)}) == (str(case), {np.dtype(dtype)})


def test_layers_are_float32_and_convert_to_float64():
    def model() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3), nn.Softmax(1),
        )  # fmt: skip

    for net, dtype in ((model(), F32), (model().double(), F64), (model().to(dtrain.float64), F64)):
        x = dtrain.randn(4, 1, 6, 6, dtype=dtype, requires_grad=True)
        y = net(x)
        y.square().sum().backward()
        assert {t.dtype for t in (y, x.grad, *net.parameters())} == {np.dtype(dtype)}
        assert {p.grad.dtype for p in net.parameters()} == {np.dtype(dtype)}
        assert {b.dtype for b in net.buffers()} == {np.dtype(dtype), np.dtype(I64)}


def test_products_are_not_promoted():
    x, w = Tensor(np.ones((2, 3), F32)), Tensor(np.ones((3, 3), F64))
    for call in (lambda: x @ w, lambda: nn.functional.linear(x, w), lambda: nn.functional.mse_loss(x, w[:2])):
        with pytest.raises(TypeError, match=r"float32 and float64; convert with \.to\(dtype\)"):
            call()


def test_gradient_crosses_dtypes():
    x = Tensor(np.ones(2, F32), requires_grad=True)
    y = x.to(dtrain.float64) * Tensor(np.array([2.0, 3.0])) + x.half().float()
    assert y.dtype == F64
    y.sum().backward()
    assert x.grad.dtype == F32
    np.testing.assert_array_equal(x.grad.array, [3, 4])


@pytest.mark.parametrize(
    "call",
    [
        *OPERATORS,
        dtrain.maximum,
        dtrain.minimum,
        lambda x, y: dtrain.where(x > 0, x, y),
        lambda x, y: dtrain.cat([x, y]),
        lambda x, y: x.sum(dtype=F64) + y.sum(),
        lambda x, y: x.mean(dtype=F64) + y.sum(),
        lambda x, y: x.softmax(0, dtype=F64) + y,
        lambda x, y: x.log_softmax(0, dtype=F64) + y,
    ],
)
def test_every_gradient_has_the_dtype_of_its_tensor(call):
    """Not only at leaves: kernels before a promotion get gradients in the dtype that they computed in."""
    a = Tensor(np.array([1.0, 2.0], F32), requires_grad=True)
    b = Tensor(np.array([2.0, 3.0], F64), requires_grad=True)
    for x, y in ((a * 1, b * 1), (b * 1, a * 1)):
        seen = {}
        x.register_hook(lambda g, seen=seen: seen.update(x=g.dtype))
        y.register_hook(lambda g, seen=seen: seen.update(y=g.dtype))
        call(x, y).sum().backward()
        assert seen == {"x": x.dtype, "y": y.dtype}
