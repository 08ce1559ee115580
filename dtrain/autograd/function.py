"""Differentiable functions written by users, with PyTorch's `Function` interface."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from dtrain.autograd.mode import mode, no_grad
from dtrain.autograd.op import Joint, record
from dtrain.autograd.tensor import Tensor

__all__ = ["Function"]


class _Context(SimpleNamespace):
    """What `forward` leaves for `backward`."""

    saved_tensors: tuple[Any, ...] = ()
    needs_input_grad: tuple[bool, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors


class Function:
    """Subclass with static methods `forward(ctx, *args)` and `backward(ctx, *grads)`; call `apply(*args)`.

    forward returns a Tensor or a tuple of them, from operations that are not recorded; backward
    returns one gradient (or None) per argument of forward. `ctx.save_for_backward(*tensors)`,
    `ctx.saved_tensors`, `ctx.needs_input_grad` and free attributes carry values between the two.
    Where a custom op works on arrays, `dtrain.autograd.op` is shorter and faster.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        """The value: a Tensor or a tuple of them. To be defined by the subclass."""
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """One gradient, or None, per argument of forward, from those of its results. To be defined by the subclass."""
        raise NotImplementedError

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """forward(ctx, *args), recorded. RuntimeError where backward returns too few or too many gradients."""
        ctx = _Context()
        ctx.needs_input_grad = tuple(isinstance(a, Tensor) and a.requires_grad for a in args)
        with no_grad():
            result = cls.forward(ctx, *args)
        if not (mode.enabled and any(ctx.needs_input_grad)):
            return result
        rule = _Rule(cls, ctx, args, result)
        output = record(rule, rule.value_of(result), Joint(rule.pullback), args, {})
        # What forward saved of its results leads back to here, so that backward can be differentiated too.
        pairs = zip(result, output, strict=True) if rule.several else [(result, output)]
        for made, recorded in pairs:
            if any(made is s for s in ctx.saved_tensors):
                made._node, made.requires_grad = recorded._node, recorded.requires_grad
        return output


class _Rule:
    """What a node of a Function needs: its gradient, and the means to run it and its gradient again."""

    formula = None

    def __init__(self, cls: type[Function], ctx: _Context, args: tuple[Any, ...], result: Any) -> None:
        self.name, self.cls, self.ctx, self.count = cls.__name__, cls, ctx, len(args)
        self.tensors = [isinstance(a, Tensor) for a in args]
        self.several = isinstance(result, tuple)
        self.results = [r.array for r in (result if self.several else (result,))]

    def value_of(self, result: Any) -> Any:
        return tuple(r.array for r in result) if self.several else result.array

    def function(self, *arrays: Any) -> Any:
        with no_grad():
            args = [Tensor(a) if is_tensor else a for a, is_tensor in zip(arrays, self.tensors, strict=True)]
            return self.value_of(self.cls.forward(_Context(), *args)), None

    def pullback(self, g: Any, needs: Sequence[bool]) -> list[Any]:
        given = [None if piece is None else Tensor(piece) for piece in (g if self.several else [g])]
        with no_grad():
            return [None if r is None else r.array for r in self._backward(given)]

    def gradients(self, node: Any, g: Any, needs: Sequence[bool]) -> list[Any]:
        """The gradients as Tensors that can be differentiated again; g is recorded."""
        return self._backward([None if piece is None else piece.tensor for piece in (g if self.several else [g])])

    def _backward(self, given: list[Any]) -> list[Any]:
        pairs = zip(given, self.results, strict=True)
        grads = self.cls.backward(self.ctx, *[Tensor(a * 0) if piece is None else piece for piece, a in pairs])
        grads = grads if isinstance(grads, tuple) else (grads,)
        if len(grads) != self.count:
            raise RuntimeError(
                f"{self.name}.backward returned {len(grads)} gradients for {self.count} inputs of forward"
            )
        return list(grads)
