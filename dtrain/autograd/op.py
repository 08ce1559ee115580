"""The `@op` rule: a function of arrays that returns its value and its pullbacks becomes an op on Tensors.

    @op
    def mul(x, y):
        '''x * y with broadcasting.'''
        return x * y, (lambda g: unbroadcast(g * y, x.shape),
                       lambda g: unbroadcast(g * x, y.shape))

The function sees raw arrays. It returns `(value, pullbacks)`, where pullbacks is

- one function g -> gradient, for an op of one array;
- a tuple of them, one for each of the first positional arguments; an `Into` where the gradient can be written to an
  array that is given;
- a `Joint`, where one kernel yields several gradients;
- None, where nothing is differentiable.

Only the pullbacks whose input needs a gradient run. A value that is a tuple makes an op with
several outputs; its pullback is a `Joint` that gets a list of gradients.

Gradients of gradients (create_graph=True) need no second rule: the function is run again with arrays that
record what is done with them, and so do its pullbacks (see `recorded.py`). A function that does what
these cannot (a hand-made kernel, writing into parts of an array) has a formula beside it, of ops:

    @softmax.formula
    def _(input, dim):
        e = (input - input.amax(dim, keepdim=True)).exp()
        return e / e.sum(dim, keepdim=True)

Arrays of two-byte floats reach the function in float32, and its value and gradients are rounded; an op made with
`@op(halves=True)` gets them as they are, because it only moves elements, or has kernels for them. `@op(lowered=True)`
says that `autocast` hands it its arguments in two-byte floats.

The function is run again at will, so it has no side effects and draws no random numbers.
`f.raw(...)` is the value of op f for arrays, for use inside other ops and their pullbacks.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from dtrain.autograd.graph import Node
from dtrain.autograd.memory import explain
from dtrain.autograd.mode import mode
from dtrain.autograd.pullbacks import Into, Joint, Pieces
from dtrain.autograd.tensor import Tensor
from dtrain.backend import device_of, on_gpu, to_device
from dtrain.backend.halves import HALVES, converted, halved, is_float, widened

__all__ = ["PIECE", "Call", "Into", "Joint", "Rule", "cast", "op", "record", "to_lower"]


class Call:
    """How an op was called: what is needed to run it again."""

    __slots__ = ("inputs", "kwargs", "rule")

    def __init__(self, rule: Any, inputs: Sequence[Any], kwargs: dict[str, Any]) -> None:
        self.rule, self.inputs, self.kwargs = rule, inputs, kwargs


class Rule:
    """What an op does: its function of arrays, and the formula that is differentiated where that cannot be."""

    def __init__(self, function: Callable[..., Any], halves: bool = False, lowered: bool = False) -> None:
        self.name = function.__name__
        self.function = function
        self.formula: Callable[..., Any] | None = None
        self.halves, self.lowered = halves, lowered

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function of arrays, or of arrays that record."""
        if not self.halves:
            for a in args:
                if getattr(a, "dtype", None) in HALVES:
                    return _in_float32(self.function, args, kwargs)
        return self.function(*args, **kwargs)


#: Of the nodes of the elements of a tuple: their pullbacks only pass a gradient on.
PIECE = Rule(lambda parts, i: (parts[i], None), halves=True)


def op(function: Callable[..., Any] | None = None, *, halves: bool = False, lowered: bool = False) -> Any:
    """Make a differentiable op from a function of arrays; see the module's docstring for the rule."""
    if function is None:
        return lambda function: op(function, halves=halves, lowered=lowered)
    rule = Rule(function, halves, lowered)
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            for value in kwargs.values():
                if isinstance(value, Tensor):
                    args, kwargs = _by_position(signature, args, kwargs)
                    break
        if lowered and mode.autocast is not None:
            args = tuple(to_lower(a, mode.autocast) for a in args)
        recorded = wide = False
        arrays = []
        for a in args:
            if isinstance(a, Tensor):
                arrays.append(array := a.array)
                if a.requires_grad:
                    recorded = True
                if array.itemsize == 2 and not halves:
                    wide = True
            else:
                arrays.append(a)
        try:
            if mode.tape is not None:
                arrays = [mode.tape.array_of(a) if isinstance(a, Tensor) else a for a in args]
                value, pullbacks = mode.tape.call(rule if wide else function, arrays, kwargs)
            else:
                value, pullbacks = rule(*arrays, **kwargs) if wide else function(*arrays, **kwargs)
        except ValueError as error:
            if not str(error).startswith("operands could not be broadcast"):
                raise
            shapes = [a.shape for a in args if isinstance(a, Tensor)]
            raise ValueError(
                f"{rule.name}: shapes {' and '.join(map(str, shapes))} do not broadcast; counted from the last "
                "dimension, sizes must be equal, or one of them 1"
            ) from None
        except MemoryError as error:
            explain(error, rule.name, args)
            raise
        except TypeError:
            devices = sorted({a.device for a in args if isinstance(a, Tensor)})
            if len(devices) < 2:
                raise
            raise RuntimeError(
                f"{rule.name}: the tensors are on {' and '.join(devices)}; move them to one device with .to()"
            ) from None
        if recorded and mode.enabled and pullbacks is not None:
            return record(rule, value, pullbacks, args, kwargs)
        if value.__class__ is tuple:
            return tuple(map(Tensor, value))
        return Tensor(value)

    def raw(*args: Any, **kwargs: Any) -> Any:
        """The value for arrays. Arrays that record (those of a walk with create_graph) record this op."""
        from dtrain.autograd.recorded import as_recorded

        if not any(hasattr(a, "tensor") for a in args):
            return rule(*args, **kwargs)[0]
        result = itself()(*[getattr(a, "tensor", a) for a in args], **kwargs)
        return tuple(map(as_recorded, result)) if isinstance(result, tuple) else as_recorded(result)

    def formula(definition: Callable[..., Any]) -> Callable[..., Any]:
        """`@f.formula`: the same as f, of ops of Tensors that can be differentiated again."""
        rule.formula = definition
        return definition

    itself: Any = weakref.ref(call)  # no cycle: an op that is made inside a function goes with it
    call.raw, call.formula = raw, formula  # type: ignore[attr-defined]
    return call


def to_lower(a: Any, precision: dict[str, np.dtype]) -> Any:
    """A Tensor of float32 (or of two-byte floats) in its device's dtype; all else as it is, float64 too."""
    if isinstance(a, Tensor) and is_float(a.array.dtype) and a.array.dtype != np.float64:
        dtype = precision.get("cuda" if on_gpu(a.array) else "cpu")
        if dtype is not None and dtype != a.array.dtype:
            return a.to(dtype)
    return a


def _in_float32(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What the function gives for arrays of which some are of two-byte floats.

    Its value is rounded to such numbers, unless another array of dimensions is of wider ones, or the caller asks for
    another dtype.
    """
    dtypes = [getattr(a, "dtype", None) for a in args]
    floats = [(a.ndim > 0, d) for a, d in zip(args, dtypes, strict=True) if isinstance(d, np.dtype) and is_float(d)]
    large = {d for has, d in floats if has} or {d for _, d in floats}
    dtype = large.pop() if len(large) == 1 else np.dtype(np.float32)
    for a in (*args, *kwargs.values()):
        if isinstance(a, np.dtype) or isinstance(a, type) and issubclass(a, np.generic):
            dtype = np.dtype(a)  # the caller has asked for it: softmax(x, 1, dtype=float32)
    value, pullbacks = function(*map(widened, args), **kwargs)
    several = value.__class__ is tuple
    if dtype in HALVES:
        value = tuple(halved(v, dtype) for v in value) if several else halved(value, dtype)

    def back(i: int, pullback: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda g: _rounded(pullback(widened(g)), dtypes[i])

    def joint(g: Any, needs: Sequence[bool]) -> list[Any]:
        g = [widened(part) for part in g] if several else widened(g)
        return [_rounded(d, dtype) for d, dtype in zip(pullbacks.function(g, needs), dtypes, strict=False)]

    if pullbacks.__class__ is Joint:
        return value, Joint(joint)
    if pullbacks is None:
        return value, None
    each = pullbacks if pullbacks.__class__ is tuple else (pullbacks,)
    return value, tuple(p and back(i, p) for i, p in enumerate(each))


def _rounded(d: Any, dtype: Any) -> Any:
    return halved(d, dtype) if dtype in HALVES else d


@op(halves=True)
def cast(x: Any, dtype: np.dtype, place: str) -> Any:
    """x in another dtype, elsewhere."""
    before, origin = x.dtype, device_of(x)
    return converted(to_device(x, place), dtype), lambda g: converted(to_device(g, origin), before)


def record(rule: Any, value: Any, pullbacks: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The value as a Tensor (or a tuple of them) with a node that leads back to `args`."""
    if pullbacks.__class__ is not Joint and pullbacks.__class__ is not tuple:
        pullbacks = (pullbacks,)
    # What a node keeps of an input: its node, or what else was given. Never a computed tensor: its array is freed.
    parents = [(a._node or a.node) if isinstance(a, Tensor) and a.requires_grad else a for a in args]
    call = Call(rule, parents, kwargs)
    if pullbacks.__class__ is tuple and len(pullbacks) < len(parents):
        parents = parents[: len(pullbacks)]
    if value.__class__ is not tuple:
        node = Node(rule.name, parents, pullbacks, value.shape, call)
        return Tensor(value, True, node)
    node = Node(rule.name, parents, pullbacks, (), call)
    outputs = []
    for i, v in enumerate(value):
        if not is_float(np.dtype(v.dtype)):
            outputs.append(Tensor(v))
            continue
        passing = (_piece(i, len(value)),)
        outputs.append(
            Tensor(v, True, Node(f"{rule.name}[{i}]", (node,), passing, v.shape, Call(PIECE, (node, i), {})))
        )
    return tuple(outputs)


def _piece(i: int, n: int) -> Callable[[Any], Pieces]:
    return lambda g: Pieces(g if k == i else None for k in range(n))


def _by_position(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Move tensors given by keyword to their positions, so that they are differentiated too."""
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.args, bound.kwargs
