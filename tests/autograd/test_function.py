"""Function (PyTorch's interface for custom gradients), the @op rule, and check_grads itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain.autograd import Function, Joint, Tensor, check_grads, is_grad_enabled, op


def leaf(*values: float) -> Tensor:
    return Tensor(np.array(values, np.float64), requires_grad=True)


class Scale(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float, w: Tensor) -> Tensor:
        assert not is_grad_enabled()
        ctx.save_for_backward(x, w)
        ctx.factor = factor
        return x * factor * w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, w = ctx.saved_tensors
        gw = g * x * ctx.factor if ctx.needs_input_grad[2] else None
        return g * w * ctx.factor, None, gw


class Halves(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:1] * 2, x[1:] * 3

    @staticmethod
    def backward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        return dtrain.cat([a * 2, b * 3])


def test_function_with_options_and_unused_gradients():
    check_grads(lambda x, w: Scale.apply(x, 3.0, w), leaf(1, 2), leaf(3, 4))
    x = leaf(1, 2)
    y = Scale.apply(x, 2.0, Tensor(np.array([5.0, 5.0])))
    assert (y.grad_fn.op, y.tolist()) == ("Scale", [10, 20])
    y.sum().backward()
    assert x.grad.tolist() == [10, 10]
    assert not Scale.apply(x.detach(), 2.0, x.detach()).requires_grad


def test_function_with_several_outputs():
    check_grads(Halves.apply, leaf(1, 2, 3))
    x = leaf(1, 2, 3)
    _, b = Halves.apply(x)
    b.sum().backward()  # the first output is not used: its gradient is zero
    assert x.grad.tolist() == [0, 3, 3]


def test_function_with_the_wrong_number_of_gradients():
    class Wrong(Scale):
        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            return g

    with pytest.raises(RuntimeError, match=r"Wrong\.backward returned 1 gradients for 3 inputs"):
        Wrong.apply(leaf(1), 2.0, leaf(1)).backward()


def test_op_takes_tensors_by_keyword_and_numbers():
    @op
    def affine(x: Any, scale: Any = None, shift: float = 0.0) -> Any:
        """x * scale + shift"""
        return x * scale + shift, (lambda g: g * scale, lambda g: g * x)

    x, s = leaf(1, 2), leaf(3, 4)
    y = affine(x, shift=1.0, scale=s)
    assert y.tolist() == [4, 9]
    y.sum().backward()
    assert (x.grad.tolist(), s.grad.tolist()) == ([3, 4], [1, 2])
    assert affine.__doc__ == "x * scale + shift"
    assert affine.__name__ == "affine"
    assert affine(x, 2.0).requires_grad


def test_op_without_gradient():
    @op
    def rounded(x: Any) -> Any:
        return np.round(x), None

    assert not rounded(leaf(1.4)).requires_grad


def test_joint_pullback_is_told_what_is_needed():
    seen = []

    @op
    def product(x: Any, y: Any) -> Any:
        def pullback(g: Any, needs: tuple[bool, ...]) -> list[Any]:
            seen.append(tuple(needs))
            return [g * y if needs[0] else None, g * x if needs[1] else None]

        return x * y, Joint(pullback)

    product(leaf(1), Tensor(np.ones(1))).backward()
    product(leaf(1), leaf(2)).backward()
    assert seen == [(True, False), (True, True)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda g, x: g * x, "argument 0, element .1,."),
        (lambda g, x: 2 * g * x * (1 + 1e-4), "finite differences give"),
    ],
)
def test_check_grads_finds_a_wrong_gradient(wrong, message):
    @op
    def square(x: Any) -> Any:
        return x * x, lambda g: wrong(g, x)

    with pytest.raises(AssertionError, match=message):
        check_grads(square, leaf(0, 2, 3))


def test_check_grads_finds_a_missing_gradient_and_skips_integers():
    check_grads(lambda x, i: x[i], leaf(1, 2), Tensor(np.array([1, 0, 1])))
    check_grads(lambda x, k: x * k, leaf(1, 2), 3)
    with pytest.raises(AssertionError, match="argument 1"):
        check_grads(lambda x, y: x * y.detach(), leaf(1, 2), leaf(3, 4))
