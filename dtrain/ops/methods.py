"""Tensor's operators and methods: the ops, bound. In-place methods are in `in_place.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dtrain.autograd import Tensor
from dtrain.backend.halves import bfloat16
from dtrain.ops import (
    activation,
    arithmetic,
    binary,
    comparison,
    counting,
    creation,
    decompositions,
    diagonals,
    distributions,
    elementwise,
    indexing,
    linear,
    piecewise,
    products,
    rearranging,
    reduction,
    scan,
    scatter,
    shape,
    solvers,
    sorting,
    special,
    statistics,
)  # fmt: skip

__all__: list[str] = []

# All functions of these modules are methods, but for those that are named.
_FUNCTIONS_ONLY = {
    arithmetic: "where",
    binary: "",
    comparison: "",
    counting: "Histogram HistogramDD bucketize histogramdd one_hot searchsorted",
    decompositions: "Eigen QR SVD SlogDet USV eigh eigvalsh qr qr_some solve svd svd_usv svdvals",
    diagonals: "powers tril_indices triu_indices vander",
    distributions: "IN_PLACE normal",
    elementwise: "",
    indexing: "index raw_key",
    linear: "bilinear linear",
    products: "chain_matmul einsum multi_dot tensordot",
    rearranging: (
        "atleast_1d atleast_2d atleast_3d block_diag broadcast_shapes broadcast_tensors cartesian_prod column_stack "
        "combinations concatenate dstack hstack meshgrid row_stack vstack"
    ),
    reduction: "",
    scan: "Running cumulative_trapezoid flip_axis gradient trapezoid trapz",
    scatter: "",
    shape: "cat concat stack",
    solvers: (
        "CholeskyEx InvEx LeastSquares SolveEx cholesky_ex cond inv_ex lstsq matrix_rank pinv solve_ex "
        "solve_triangular tensorinv tensorsolve vecdot"
    ),
    sorting: "Ordered",
    special: "gammaln i0e i1 i1e log_ndtr log1p log_softmax multigammaln ndtr ndtri psi softmax zeta",
    statistics: "AMinMax matrix_norm std_mean var_mean vector_norm",
}
for module, names in _FUNCTIONS_ONLY.items():
    for name in {*module.__all__} - {*names.split()}:
        setattr(Tensor, name, getattr(module, name))
for name in ("log_softmax", "relu", "sigmoid", "softmax", "tanh"):
    setattr(Tensor, name, getattr(activation, name))
for name, function in (("qr", decompositions.qr_some), ("svd", decompositions.svd_usv)):
    setattr(Tensor, name, function)
for name in ("hardshrink", "prelu"):
    setattr(Tensor, name, getattr(piecewise, name))
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
    found |= {"__invert__": c.bitwise_not, "__rdiv__": found["__rtruediv__"]}
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


def _matrix_transposed(x: Tensor) -> Tensor:
    """A matrix transposed. Raises ValueError for other numbers of dimensions."""
    if x.ndim != 2:
        raise ValueError(f"H needs a matrix, got shape {x.shape}; use mH for batches of matrices")
    return shape.transpose(x, 0, 1)


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
Tensor.H = property(_matrix_transposed)  # type: ignore[attr-defined]
Tensor.mT = Tensor.mH = property(_last_two_transposed)  # type: ignore[attr-defined]
Tensor.where = _where  # type: ignore[attr-defined]
Tensor.type_as = _type_as  # type: ignore[attr-defined]
Tensor.__iter__ = lambda x: iter(shape.unbind(x))  # type: ignore[attr-defined]


def _converted_to(dtype: type) -> Callable[..., Any]:
    def method(x: Tensor) -> Tensor:
        return x.to(dtype)

    method.__doc__ = f"`to(dtrain.{np.dtype(dtype)})`."
    return method


for name, dtype in (
    ("bfloat16", bfloat16),
    ("float", np.float32), ("double", np.float64), ("half", np.float16), ("long", np.int64), ("int", np.int32),
    ("short", np.int16), ("bool", np.bool_), ("byte", np.uint8), ("char", np.int8),
):  # fmt: skip
    setattr(Tensor, name, _converted_to(dtype))
