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
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError

    @classmethod
    def apply(cls, *args: Any) -> Any:
        ctx = _Context()
        ctx.needs_input_grad = tuple(isinstance(a, Tensor) and a.requires_grad for a in args)
        with no_grad():
            result = cls.forward(ctx, *args)
        if not (mode.enabled and any(ctx.needs_input_grad)):
            return result
        several = isinstance(result, tuple)
        shapes = [r.array for r in (result if several else (result,))]

        def pullback(g: Any, needs: Sequence[bool]) -> list[Any]:
            pieces = g if several else [g]
            given = [Tensor(piece if piece is not None else a * 0) for piece, a in zip(pieces, shapes, strict=True)]
            with no_grad():
                grads = cls.backward(ctx, *given)
            grads = grads if isinstance(grads, tuple) else (grads,)
            if len(grads) != len(args):
                raise RuntimeError(
                    f"{cls.__name__}.backward returned {len(grads)} gradients for {len(args)} inputs of forward"
                )
            return [None if r is None else r.array for r in grads]

        value = tuple(r.array for r in result) if several else result.array
        return record(cls.__name__, value, Joint(pullback), args)
