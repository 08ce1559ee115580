"""Compare gradients with finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dtrain.autograd.graph import backward, grad
from dtrain.autograd.mode import enable_grad, no_grad
from dtrain.autograd.tensor import Tensor
from dtrain.backend.halves import is_float

__all__ = ["check_grads", "gradcheck", "gradgradcheck"]


def check_grads(
    function: Callable[..., Any],
    *args: Any,
    eps: float = 1e-6,
    rtol: float = 1e-5,
    atol: float = 1e-7,
) -> None:
    """Check the gradients of `function(*args)` against central differences, in float64.

    For every element of every floating-point Tensor among args,
    (f(x + eps) - f(x - eps)) / 2 eps is compared with the gradient of f = sum(output * w), where w
    are fixed random weights, so that every output element counts. A tuple of outputs is taken whole.
    The function must be deterministic. Raises AssertionError that names the argument, the element and both values.
    """
    inputs = [Tensor(a.array.astype(np.float64), requires_grad=True) if _checked(a) else a for a in args]
    outputs = _outputs(function(*inputs))
    rng = np.random.Generator(np.random.Philox(key=20))
    weights = [rng.standard_normal(o.shape) for o in outputs]
    recorded = [i for i, o in enumerate(outputs) if o.requires_grad]
    backward([outputs[i] for i in recorded], [Tensor(weights[i]) for i in recorded])

    def f() -> float:
        with no_grad():
            values = _outputs(function(*inputs))
        return float(sum((o.array * w).sum() for o, w in zip(values, weights, strict=True)))

    for position, (x, original) in enumerate(zip(inputs, args, strict=True)):
        if not _checked(original):
            continue
        got = np.zeros(x.shape) if x.grad is None else x.grad.array
        for index in np.ndindex(x.shape):
            centre = x.array[index]
            x.array[index] = centre + eps
            above = f()
            x.array[index] = centre - eps
            below = f()
            x.array[index] = centre
            want = (above - below) / (2 * eps)
            if not abs(got[index] - want) <= atol + rtol * max(abs(want), abs(got[index])):
                raise AssertionError(
                    f"argument {position}, element {index}: the gradient is {got[index]:.10g}, "
                    f"finite differences give {want:.10g}"
                )


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """PyTorch's name for `check_grads(func, *inputs)`: True, or AssertionError (False without raise_exception)."""
    args = tuple(inputs) if isinstance(inputs, (list, tuple)) else (inputs,)
    try:
        check_grads(func, *args, eps=eps, rtol=rtol, atol=atol)
    except AssertionError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(func: Callable[..., Any], inputs: Any, **options: Any) -> bool:
    """`gradcheck` of the gradients of func: of the sums of its outputs' squares, so that every second one counts."""
    args = tuple(inputs) if isinstance(inputs, (list, tuple)) else (inputs,)

    def gradients(*given: Any) -> Any:
        with enable_grad():
            wanted = [a if a.requires_grad else a.requires_grad_() for a in given if _checked(a)]
            total = sum((o * o).sum() for o in _outputs(func(*given)) if o.requires_grad)
            return grad(total, wanted, create_graph=True, materialize_grads=True)

    return gradcheck(gradients, args, **options)


def _checked(a: Any) -> bool:
    return isinstance(a, Tensor) and is_float(a.array.dtype)


def _outputs(result: Any) -> list[Tensor]:
    return [o for o in (result if isinstance(result, (tuple, list)) else [result]) if _checked(o)]
