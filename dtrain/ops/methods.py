"""Tensor's operators and methods: the ops, bound. In-place methods are here too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, is_grad_enabled
from dtrain.ops import (
    activation,
    arithmetic,
    binary,
    comparison,
    counting,
    creation,
    decompositions,
    diagonals,
    elementwise,
    indexing,
    linear,
    products,
    rearranging,
    reduction,
    scan,
    scatter,
    shape,
    sorting,
    special,
    statistics,
)  # fmt: skip
from dtrain.ops.draws import next_draw
from dtrain.ops.indexing import raw_key

__all__: list[str] = []

# All functions of these modules are methods, but for those that are named.
_FUNCTIONS_ONLY = {
    arithmetic: "where",
    binary: "",
    comparison: "",
    counting: "Histogram bucketize one_hot searchsorted",
    decompositions: "Eigen SVD SlogDet eigh eigvalsh solve svdvals",
    diagonals: "powers tril_indices triu_indices vander",
    elementwise: "",
    indexing: "index raw_key",
    linear: "bilinear linear",
    products: "chain_matmul einsum multi_dot tensordot",
    rearranging: (
        "atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors cartesian_prod column_stack combinations "
        "concatenate dstack hstack meshgrid row_stack vstack"
    ),
    reduction: "",
    scan: "Running cumulative_trapezoid flip_axis trapezoid trapz",
    scatter: "",
    shape: "cat concat stack",
    sorting: "Ordered",
    special: "gammaln i0e i1 i1e log_ndtr log1p log_softmax multigammaln ndtr ndtri psi softmax zeta",
    statistics: "AMinMax matrix_norm std_mean var_mean vector_norm",
}
for module, names in _FUNCTIONS_ONLY.items():
    for name in {*module.__all__} - {*names.split()}:
        setattr(Tensor, name, getattr(module, name))
for name in ("log_softmax", "relu", "sigmoid", "softmax", "tanh"):
    setattr(Tensor, name, getattr(activation, name))
for name in ("new_empty", "new_full", "new_ones", "new_tensor", "new_zeros"):
    setattr(Tensor, name, getattr(creation, name))


def _reflected(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, y: function(y, x)


def _operators() -> dict[str, Callable[..., Any]]:
    a, b, c = arithmetic, binary, comparison
    two = {
        "add": a.add, "and": c.bitwise_and, "floordiv": b.floor_divide, "lshift": c.bitwise_left_shift,
        "matmul": linear.matmul, "mod": b.remainder, "mul": a.mul, "or": c.bitwise_or, "pow": a.pow,
        "rshift": c.bitwise_right_shift, "sub": a.sub, "truediv": a.div, "xor": c.bitwise_xor,
    }  # fmt: skip
    found = {f"__{name}__": f for name, f in two.items()}
    found |= {f"__r{name}__": _reflected(f) for name, f in two.items()}
    found |= {f"__{name}__": getattr(a, name) for name in ("neg", "abs")}
    found |= {f"__{name}__": getattr(c, name) for name in ("lt", "le", "gt", "ge")}
    found |= {"__invert__": c.bitwise_not}
    # Comparisons with what is no number (None, say) are false, as in Python.
    found |= {f"__{name}__": _compare(getattr(c, name)) for name in ("eq", "ne")}
    return found | {"__getitem__": indexing.index}


def _compare(function: Callable[..., Any]) -> Callable[..., Any]:
    numbers = (Tensor, int, float, np.ndarray, np.generic)
    return lambda x, y: function(x, y) if isinstance(y, numbers) else NotImplemented


for name, function in _operators().items():
    setattr(Tensor, name, function)


def _transposed(x: Tensor) -> Tensor:
    """All dimensions in reverse order: a matrix transposed."""
    return shape.permute(x, *range(x.ndim)[::-1])


def _last_two_transposed(x: Tensor) -> Tensor:
    """The last two dimensions exchanged: a batch of matrices, each transposed."""
    return shape.transpose(x, -1, -2)


def _where(x: Tensor, condition: Tensor, other: Any) -> Tensor:
    """x where condition is true, else other; all broadcast."""
    return arithmetic.where(condition, x, other)


def _type_as(x: Tensor, other: Tensor) -> Tensor:
    """x in the dtype of `other`."""
    return x.to(other.dtype)


Tensor.T = property(_transposed)  # type: ignore[attr-defined]
Tensor.mT = property(_last_two_transposed)  # type: ignore[attr-defined]
Tensor.t = _transposed  # type: ignore[attr-defined]
Tensor.where = _where  # type: ignore[attr-defined]
Tensor.type_as = _type_as  # type: ignore[attr-defined]
Tensor.__iter__ = lambda x: iter(shape.unbind(x))  # type: ignore[attr-defined]


def _converted_to(dtype: type) -> Callable[..., Any]:
    def method(x: Tensor) -> Tensor:
        return x.to(dtype)

    method.__doc__ = f"`to(dtrain.{np.dtype(dtype)})`."
    return method


for name, dtype in (
    ("float", np.float32), ("double", np.float64), ("half", np.float16), ("long", np.int64), ("int", np.int32),
    ("bool", np.bool_), ("byte", np.uint8),
):  # fmt: skip
    setattr(Tensor, name, _converted_to(dtype))


# -- in place ----------------------------------------------------------------------------------------


def _writable(x: Tensor, name: str, *sources: Any) -> None:
    """Raise where writing into x would spoil a gradient, or lose that of a source."""
    if is_grad_enabled() and x.requires_grad:
        what = "a leaf" if x.is_leaf else "the result of a recorded op"
        raise RuntimeError(
            f"{name} would change {what} that requires a gradient; use it under dtrain.no_grad(), "
            "or the form without the trailing underscore"
        )
    if is_grad_enabled() and any(isinstance(source, Tensor) and source.requires_grad for source in sources):
        raise RuntimeError(
            f"{name} would lose the gradient of what is written; use the form without the trailing underscore, "
            "or dtrain.cat, stack or where"
        )


def _in_place(name: str, ufunc: Callable[..., Any]) -> None:
    def method(x: Tensor, other: Any, *, alpha: float = 1) -> Tensor:
        _writable(x, f"{name}_", other)
        value = other.array if isinstance(other, Tensor) else other
        ufunc(x.array, value if alpha == 1 else value * alpha, out=x.array, casting="same_kind")
        return x

    def operator(x: Tensor, other: Any) -> Tensor:
        if is_grad_enabled() and (
            not x.is_leaf or isinstance(other, Tensor) and other.requires_grad and not x.requires_grad
        ):
            return getattr(arithmetic, name)(x, other)  # rebinding the name is what x += y then means
        return method(x, other)

    method.__name__, method.__doc__ = f"{name}_", f"`{name}` in place."
    setattr(Tensor, f"{name}_", method)
    setattr(Tensor, {"div": "__itruediv__"}.get(name, f"__i{name}__"), operator)


for name, ufunc in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div", np.true_divide)):
    _in_place(name, ufunc)


def _write(name: str, values: Callable[..., Any]) -> None:
    """Bind the in-place method `name`, which writes values(x, ...) into x."""

    def method(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        _writable(x, name, *args, *kwargs.values())
        x.array[...] = values(x, *args, **kwargs)
        return x

    method.__name__, method.__doc__ = name, values.__doc__
    setattr(Tensor, name, method)


def _zero(x: Tensor) -> Any:
    """Set all elements to 0."""
    return 0


def _fill(x: Tensor, value: float) -> Any:
    """Set all elements to value."""
    return value.array if isinstance(value, Tensor) else value


def _copy(x: Tensor, source: Tensor, non_blocking: bool = False) -> Any:
    """Copy the elements of source, which may broadcast."""
    return source.array


def _clamp(x: Tensor, min: float | None = None, max: float | None = None) -> Any:  # noqa: A002
    """Limit all elements to [min, max]."""
    return np.clip(x.array, min, max)


def _drawn(x: Tensor) -> type:
    return np.float64 if x.dtype == np.float64 else np.float32


def _uniform(x: Tensor, a: float = 0.0, b: float = 1.0, *, generator: Any = None) -> Any:
    """Draw all elements from the uniform distribution on [a, b): the next draw, as by `rand`, or a generator's."""
    return (generator or next_draw()).random(x.shape, _drawn(x)) * _drawn(x)(b - a) + _drawn(x)(a)


def _normal(x: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Any:
    """Draw all elements from the normal distribution: the next draw, as by `randn`, or a generator's."""
    return (generator or next_draw()).standard_normal(x.shape, _drawn(x)) * _drawn(x)(std) + _drawn(x)(mean)


for name, values in (
    ("zero_", _zero), ("fill_", _fill), ("copy_", _copy), ("clamp_", _clamp), ("uniform_", _uniform),
    ("normal_", _normal),
):  # fmt: skip
    _write(name, values)


def _set(x: Tensor, key: Any, value: Any) -> None:
    """x[key] = value, where no gradient would be spoiled or lost."""
    _writable(x, "x[...] = value", value)
    selected, rest = raw_key(x.ndim, key)
    value = value.array if isinstance(value, Tensor) else value
    if rest is Ellipsis:
        x.array[selected] = value
    else:
        x.array[selected][rest] = value


Tensor.__setitem__ = _set  # type: ignore[method-assign]
