"""What scripts ask of tensors and dtypes: PyTorch's answers."""

from __future__ import annotations

import numpy as np
import pytest

import dtrain
from dtrain.autograd import gradcheck, gradgradcheck, inference_mode

NAMES = ["float16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool"]


def test_questions_about_dtypes(torch):
    for a in NAMES:
        for b in NAMES:
            theirs, ours = ([getattr(m, n) for n in (a, b)] for m in (torch, dtrain))
            assert str(dtrain.promote_types(*ours)) == str(torch.promote_types(*theirs)).removeprefix("torch.")
            assert dtrain.can_cast(*ours) == torch.can_cast(*theirs), (a, b)
            assert str(dtrain.result_type(dtrain.ones(2, dtype=ours[0]), 1.5)) == str(
                torch.result_type(torch.ones(2, dtype=theirs[0]), 1.5)
            ).removeprefix("torch.")
        assert dtrain.is_signed(dtrain.ones(1, dtype=ours[0])) == torch.is_signed(torch.ones(1, dtype=theirs[0]))
    assert dtrain.finfo(dtrain.float32).eps == torch.finfo(torch.float32).eps
    assert dtrain.iinfo(dtrain.int8).max == torch.iinfo(torch.int8).max
    assert dtrain.is_floating_point(dtrain.ones(1)) and not dtrain.is_complex(dtrain.ones(1))
    assert dtrain.get_default_dtype() == dtrain.float32


def test_questions_about_tensors(torch):
    ours, theirs = (m.zeros(2, 3, 4).transpose(0, 2) for m in (dtrain, torch))
    for name in ("stride", "nelement", "ndimension", "is_signed", "is_complex"):
        assert getattr(ours, name)() == getattr(theirs, name)(), name
    for name in ("is_conj", "is_neg", "is_pinned", "is_shared"):
        assert getattr(ours, name)() == getattr(theirs, name)() == False, name  # noqa: E712
    for name in ("nbytes", "itemsize", "is_cuda", "is_cpu", "is_meta", "is_quantized", "is_sparse"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert dtrain.numel(ours) == 24 and ours.stride(1) == 4 and dtrain.is_same_size(ours, ours)
    assert ours.type() == "dtrain.float32" and ours.type(dtrain.int64).dtype == dtrain.int64
    assert not dtrain.is_nonzero(dtrain.zeros(1))
    assert ours.real is ours and ours.pin_memory() is ours and not dtrain.detach(ours.requires_grad_()).requires_grad
    with pytest.raises(ValueError, match="one element"):
        ours.is_nonzero()
    x = dtrain.ones(2, requires_grad=True) * 2
    assert x.detach_() is x and x.is_leaf and not x.requires_grad


def test_inference_mode():
    x = dtrain.ones(2, requires_grad=True)
    with inference_mode():
        assert not (x * 2).requires_grad
    with inference_mode(False):
        assert (x * 2).requires_grad
    for wrapped in (inference_mode(lambda: x * 2), inference_mode()(lambda: x * 2)):
        assert not wrapped().requires_grad


def test_gradient_checks():
    class Wrong(dtrain.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * x

        @staticmethod
        def backward(ctx, g):
            return g

    x = dtrain.tensor(np.array([0.3, -1.2])).requires_grad_()
    y = dtrain.tensor(np.array([1.5, 0.7])).requires_grad_()
    assert gradcheck(lambda x, y: (x * y).sin(), (x, y)) and gradgradcheck(lambda x, y: (x * y).sin(), (x, y))
    assert not gradcheck(Wrong.apply, x, raise_exception=False)
    with pytest.raises(AssertionError, match="finite differences"):
        gradcheck(Wrong.apply, x)
