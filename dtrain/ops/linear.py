"""Products of matrices."""

from __future__ import annotations

import math
from typing import Any

from dtrain.autograd import Into, op
from dtrain.backend import Array, backend_of, xp_of
from dtrain.ops.dtypes import plain, same_dtype, unbroadcast

__all__ = ["bilinear", "linear", "matmul"]


def _swap(x: Array) -> Array:
    return x.swapaxes(-1, -2)


def _product(x: Array, y: Array) -> Array:
    return backend_of(x).matmul(x, y) if plain(x) is x and plain(y) is y else x @ y


@op(halves=True, lowered=True)
def matmul(x: Any, y: Any) -> Any:
    """The product of matrices. x: (..., I, K), y: (..., K, J) -> (..., I, J)

    The leading dimensions broadcast; a vector is a row on the left and a column on the right, and its
    dimension is dropped from the result (PyTorch's and NumPy's matmul).
    """
    same_dtype("matmul", x, y)
    if not x.ndim or not y.ndim or x.shape[-1] != y.shape[-2 if y.ndim > 1 else 0]:
        raise ValueError(f"matmul: shapes {x.shape} and {y.shape} do not fit; the inner sizes must be equal")
    a = x[None] if x.ndim == 1 else x
    b = y[:, None] if y.ndim == 1 else y

    def matrix(g: Array) -> Array:
        """g with the dimensions that vectors dropped."""
        xp = xp_of(g)
        if y.ndim == 1:
            g = xp.expand_dims(g, -1)
        return xp.expand_dims(g, -2) if x.ndim == 1 else g

    def pullback_x(g: Array) -> Array:
        return unbroadcast(_product(matrix(g), _swap(b)), a).reshape(x.shape)

    def pullback_y(g: Array) -> Array:
        g = matrix(g)
        if b.ndim == 2 and a.ndim > 2:
            # One product over all leading dimensions instead of one each and a sum.
            n = math.prod(a.shape[:-1])
            return _product(a.reshape(n, a.shape[-1]).T, g.reshape(n, g.shape[-1])).reshape(y.shape)
        return unbroadcast(_product(_swap(a), g), b).reshape(y.shape)

    return _product(x, y), (pullback_x, pullback_y)


def _as_it_lies(x: Array) -> list[int]:
    """The dimensions of x, all but the last in the order of memory: sequences may come first, and lie as batches."""
    leading = range(x.ndim - 1)
    if x.flags.c_contiguous:
        return [*leading, x.ndim - 1]
    return [*sorted(leading, key=lambda i: -x.strides[i]), x.ndim - 1]


@op(halves=True, lowered=True)
def linear(input: Any, weight: Any, bias: Any = None) -> Any:  # noqa: A002
    """input @ weight.T + bias.  input: (..., I), weight: (O, I), bias: (O,) -> (..., O)

    Raises ValueError for sizes that do not fit, TypeError for different dtypes.
    """
    x, w = input, weight
    if w.ndim != 2 or not x.ndim or x.shape[-1] != w.shape[1]:
        raise ValueError(
            f"linear: input of shape {x.shape} does not fit a weight of shape {w.shape}; "
            f"the last dimension of the input must be {w.shape[-1]}"
        )
    same_dtype("linear", x, w, bias)
    kernels = backend_of(x)
    if x.ndim == 2:
        return kernels.linear(x, w, bias), (
            lambda g: kernels.matmul(g, w),
            Into(lambda g, out: kernels.matmul(g.T, x, out=out)),
            kernels.column_sums,
        )
    order, n = _as_it_lies(x), math.prod(x.shape[:-1])
    *lead, columns = x.transpose(order).shape
    way_back = [order.index(i) for i in range(x.ndim)]
    rows = x.transpose(order).reshape(n, columns)

    def flat(g: Array) -> Array:
        return g.transpose(order).reshape(n, w.shape[0])

    return kernels.linear(rows, w, bias).reshape(*lead, w.shape[0]).transpose(way_back), (
        lambda g: kernels.matmul(flat(g), w).reshape(*lead, columns).transpose(way_back),
        Into(lambda g, out: kernels.matmul(flat(g).T, rows, out=out)),
        lambda g: kernels.column_sums(flat(g)),
    )


@linear.formula
def _(input: Any, weight: Any, bias: Any = None) -> Any:  # noqa: A002
    y = matmul(input, weight.transpose(0, 1))
    return y if bias is None else y + bias


def bilinear(input1: Any, input2: Any, weight: Any, bias: Any = None) -> Any:
    """input1^T weight[o] input2 + bias[o] for each output o.

    input1: (..., I), input2: (..., J), weight: (O, I, J), bias: (O,) -> (..., O). Raises ValueError where they do not
    fit.
    """
    lead = input1.shape[:-1]
    if weight.ndim != 3 or input2.shape[:-1] != lead or (input1.shape[-1], input2.shape[-1]) != weight.shape[1:]:
        raise ValueError(
            f"bilinear: inputs of shapes {input1.shape} and {input2.shape} do not fit a weight of shape {weight.shape}"
        )
    out, i, j = weight.shape
    turned = weight.permute(1, 0, 2).reshape(i, out * j)
    middle = matmul(input1, turned).reshape(*lead, out, j)
    y = matmul(middle, input2.reshape(*lead, j, 1)).reshape(*lead, out)
    return y if bias is None else y + bias
