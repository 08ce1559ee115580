"""Products of vectors, matrices and tensors: all made of `matmul`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.autograd import Tensor
from dtrain.ops.arithmetic import add, mul, sub
from dtrain.ops.diagonals import diagonal
from dtrain.ops.dtypes import dimension, lowered
from dtrain.ops.linear import matmul
from dtrain.ops.rearranging import movedim
from dtrain.ops.reduction import sum
from dtrain.ops.shape import broadcast_to, permute, reshape, unsqueeze

__all__ = [
    "addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "chain_matmul", "cross", "dot", "einsum", "ger", "inner",
    "kron",  "multi_dot", "mm", "mv", "outer", "tensordot", "vdot",
]  # fmt: skip


def _dims(name: str, *pairs: tuple[Any, int]) -> None:
    """Raise ValueError unless each tensor has its number of dimensions."""
    if any(t.ndim != n for t, n in pairs):
        shapes, wanted = [t.shape for t, _ in pairs], [n for _, n in pairs]
        raise ValueError(f"{name}: shapes {shapes} must have {wanted} dimensions")


def mm(input: Any, mat2: Any) -> Any:
    """The product of two matrices. Raises ValueError for shapes that do not fit."""
    _dims("mm", (input, 2), (mat2, 2))
    return matmul(input, mat2)


def bmm(input: Any, mat2: Any) -> Any:
    """The products of two batches of matrices. (B, I, K), (B, K, J) -> (B, I, J)"""
    _dims("bmm", (input, 3), (mat2, 3))
    if input.shape[0] != mat2.shape[0]:
        raise ValueError(f"bmm: shapes {input.shape} and {mat2.shape} have batches of different sizes")
    return matmul(input, mat2)


def mv(input: Any, vec: Any) -> Any:
    """The product of a matrix and a vector."""
    _dims("mv", (input, 2), (vec, 1))
    return matmul(input, vec)


def dot(input: Any, tensor: Any) -> Any:
    """The sum of the products of two vectors' elements."""
    _dims("dot", (input, 1), (tensor, 1))
    return matmul(input, tensor)


vdot = dot


def outer(input: Any, vec2: Any) -> Any:
    """All products of an element of one vector and one of the other: (m,), (n,) -> (m, n)"""
    _dims("outer", (input, 1), (vec2, 1))
    return mul(unsqueeze(input, 1), vec2)


ger = outer


def inner(input: Any, other: Any) -> Any:
    """Sums of products over the last dimensions: (..., K), (..., K) -> both other dimensions."""
    if not input.ndim or not other.ndim:
        return mul(input, other)
    if input.shape[-1] != other.shape[-1]:
        raise ValueError(f"inner: the last sizes of {input.shape} and {other.shape} differ")
    return tensordot(input, other, ([-1], [-1]))


# -- with something added ----------------------------------------------------------------------------


def _added(name: str, input: Any, product: Any, beta: float, alpha: float) -> Any:
    try:
        fits = np.broadcast_shapes(input.shape, product.shape) == product.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name}: shape {input.shape} does not broadcast to the product's {product.shape}")
    if alpha != 1:
        product = mul(product, alpha)
    if beta == 0:
        return product
    return add(product, input if beta == 1 else mul(input, beta))


@lowered
def addmm(input: Any, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta input + alpha mat1 @ mat2; beta 0 leaves input out."""
    return _added("addmm", input, mm(mat1, mat2), beta, alpha)


def addmv(input: Any, mat: Any, vec: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta input + alpha mat @ vec"""
    return _added("addmv", input, mv(mat, vec), beta, alpha)


def addr(input: Any, vec1: Any, vec2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta input + alpha outer(vec1, vec2)"""
    return _added("addr", input, outer(vec1, vec2), beta, alpha)


@lowered
def baddbmm(input: Any, batch1: Any, batch2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta input + alpha bmm(batch1, batch2)"""
    return _added("baddbmm", input, bmm(batch1, batch2), beta, alpha)


@lowered
def addbmm(input: Any, batch1: Any, batch2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta input + alpha times the sum of the products of a batch of matrices"""
    return _added("addbmm", input, sum(bmm(batch1, batch2), 0), beta, alpha)


# -- of tensors --------------------------------------------------------------------------------------


def tensordot(a: Any, b: Any, dims: Any = 2) -> Any:
    """Sums of products over dims: the last `dims` of a and the first of b, or (those of a, those of b)."""
    if isinstance(dims, Tensor):
        dims = dims.tolist()
    if isinstance(dims, int):
        if not 0 <= dims <= min(a.ndim, b.ndim):
            raise ValueError(f"tensordot: dims {dims} must lie from 0 to the dimensions of {a.shape} and {b.shape}")
        dims = (range(a.ndim - dims, a.ndim), range(dims))
    of_a, of_b = (
        [dimension(d, t.ndim) for d in (ds if not isinstance(ds, int) else [ds])]
        for t, ds in zip((a, b), dims, strict=True)
    )
    if len(of_a) == len(of_b):  # a size of 1 goes with any other, whose elements are summed
        wide_a = tuple(i for i, j in zip(of_a, of_b, strict=True) if b.shape[j] == 1 != a.shape[i])
        wide_b = tuple(j for i, j in zip(of_a, of_b, strict=True) if a.shape[i] == 1 != b.shape[j])
        a = sum(a, wide_a, True) if wide_a else a
        b = sum(b, wide_b, True) if wide_b else b
    sizes = [a.shape[d] for d in of_a]
    if sizes != [b.shape[d] for d in of_b]:
        raise ValueError(f"tensordot: dims {of_a} of {a.shape} and {of_b} of {b.shape} differ in size")
    rest_a = [d for d in range(a.ndim) if d not in of_a]
    rest_b = [d for d in range(b.ndim) if d not in of_b]
    n = math.prod(sizes)
    left = reshape(permute(a, *rest_a, *of_a), math.prod(a.shape[d] for d in rest_a), n) if a.ndim else reshape(a, 1, 1)
    right = (
        reshape(permute(b, *of_b, *rest_b), n, math.prod(b.shape[d] for d in rest_b)) if b.ndim else reshape(b, 1, 1)
    )
    return reshape(matmul(left, right), *[a.shape[d] for d in rest_a], *[b.shape[d] for d in rest_b])


def kron(input: Any, other: Any) -> Any:
    """The Kronecker product: each element of input times all of other."""
    n = max(input.ndim, other.ndim)
    a, b = (reshape(t, *(1,) * (n - t.ndim), *t.shape) for t in (input, other))
    if not n:
        return mul(a, b)
    left = reshape(a, *[k for size in a.shape for k in (size, 1)])
    right = reshape(b, *[k for size in b.shape for k in (1, size)])
    return reshape(mul(left, right), *[i * j for i, j in zip(a.shape, b.shape, strict=True)])


def cross(input: Any, other: Any, dim: int | None = None) -> Any:
    """The cross products of vectors of three elements along dim (the first dimension of size 3 unless given)."""
    from dtrain.ops.rearranging import roll

    if dim is None:
        dim = next((d for d, n in enumerate(input.shape) if n == 3), -1)
    n = max(input.ndim, other.ndim)
    axis = dimension(dim, n) - n
    if input.ndim != other.ndim or not n or input.shape[axis] != 3 or other.shape[axis] != 3:
        raise ValueError(f"cross: shapes {input.shape} and {other.shape} must both have 3 elements along dim {dim}")

    def turned(x: Any, by: int) -> Any:
        return roll(x, by, axis + x.ndim)

    return sub(mul(turned(input, -1), turned(other, 1)), mul(turned(input, 1), turned(other, -1)))


def multi_dot(tensors: Sequence[Any]) -> Any:
    """The product of several matrices (the first and last may be vectors), in the order that costs least."""
    given = list(tensors)
    if len(given) < 2:
        raise ValueError("multi_dot needs at least two tensors")
    if any(t.ndim != 2 for t in given[1:-1]) or any(t.ndim not in (1, 2) for t in (given[0], given[-1])):
        raise ValueError(f"multi_dot needs matrices, with vectors only at the ends; got {[t.shape for t in given]}")
    row, column = given[0].ndim == 1, given[-1].ndim == 1
    if row:
        given[0] = unsqueeze(given[0], 0)
    if column:
        given[-1] = unsqueeze(given[-1], 1)
    product = _chain(given)
    return reshape(product, *(() if row else product.shape[:1]), *(() if column else product.shape[1:]))


def chain_matmul(*matrices: Any) -> Any:
    """`linalg.multi_dot` of matrices; one alone is returned."""
    return matrices[0] if len(matrices) == 1 else multi_dot(matrices)


def _chain(given: list[Any]) -> Any:
    """The product of matrices by the cheapest order (dynamic programming over where the last product is taken)."""
    n = len(given)
    for a, b in zip(given, given[1:], strict=False):
        if a.shape[1] != b.shape[0]:
            raise ValueError(f"multi_dot: shapes {a.shape} and {b.shape} do not fit")
    sizes = [t.shape[0] for t in given] + [given[-1].shape[1]]
    cost = {(i, i): 0 for i in range(n)}
    cut: dict[tuple[int, int], int] = {}
    for length in range(1, n):
        for i in range(n - length):
            j = i + length
            found = [cost[i, k] + cost[k + 1, j] + sizes[i] * sizes[k + 1] * sizes[j + 1] for k in range(i, j)]
            cost[i, j] = min(found)
            cut[i, j] = i + found.index(cost[i, j])

    def product(i: int, j: int) -> Any:
        return given[i] if i == j else matmul(product(i, cut[i, j]), product(cut[i, j] + 1, j))

    return product(0, n - 1)


# -- einsum ------------------------------------------------------------------------------------------


def einsum(equation: str, *operands: Any) -> Any:
    """Sums of products by Einstein's notation: einsum("bij,bjk->bik", x, y). An ellipsis: dimensions that broadcast.

    Letters that are not in the result are summed over; without "->" the result has the letters that occur once,
    sorted. The operands are multiplied from left to right. Raises ValueError for letters and shapes that do not fit.
    """
    given = list(operands[0]) if len(operands) == 1 and not isinstance(operands[0], Tensor) else list(operands)
    terms, result, wide = _parse(equation.replace(" ", ""), given)
    labelled = [_labelled(t, term, wide) for t, term in zip(given, terms, strict=True)]
    x, letters = labelled[0]
    for i, (y, others) in enumerate(labelled[1:], 1):
        later = set(result).union(*[names for _, names in labelled[i + 1 :]])
        x, letters = _contract(x, letters, y, others, later)
    gone = [letters.index(k) for k in letters if k not in result]
    if gone:
        x = sum(x, tuple(gone))
        letters = [k for k in letters if k in result]
    return permute(x, *[letters.index(k) for k in result]) if result else x


def _parse(equation: str, given: list[Any]) -> tuple[list[str], list[str], int]:
    """The operands' terms, the letters of the result (numbers for an ellipsis's dimensions), how many these are."""
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(given):
        raise ValueError(f"einsum: {equation!r} names {len(terms)} operands, got {len(given)}")
    wide = 0
    for t, term in zip(given, terms, strict=True):
        names = term.replace("...", "")
        if not names.isalpha() and names:
            raise ValueError(f"einsum: {term!r} in {equation!r} must be letters, and an ellipsis at most")
        if "..." not in term and len(names) != t.ndim or len(names) > t.ndim:
            raise ValueError(f"einsum: {term!r} in {equation!r} does not fit a tensor of shape {t.shape}")
        if "..." in term:
            wide = max(wide, t.ndim - len(names))
    every = "".join(terms).replace("...", "")
    if not arrow:
        right = ("..." if "..." in left else "") + "".join(sorted(k for k in {*every} if every.count(k) == 1))
    names = right.replace("...", "")
    if len({*names}) < len(names) or not {*names} <= {*every}:
        raise ValueError(f"einsum: the result {right!r} of {equation!r} has a letter twice, or one that no operand has")
    before, dots, after = right.partition("...")
    return terms, [*before, *(map(str, range(wide)) if dots else ()), *after], wide


def _labelled(x: Any, term: str, wide: int) -> tuple[Any, list[str]]:
    """x with one letter for each dimension: those of letters that occur twice are diagonals."""
    before, dots, after = term.partition("...")
    count = x.ndim - len(before) - len(after)
    letters = [*before, *(map(str, range(wide - count, wide)) if dots else ()), *after]
    for k in dict.fromkeys(letters):
        while letters.count(k) > 1:
            i = letters.index(k)
            j = letters.index(k, i + 1)
            if x.shape[i] != x.shape[j]:
                raise ValueError(f"einsum: {k!r} stands for sizes {x.shape[i]} and {x.shape[j]} of shape {x.shape}")
            x = movedim(diagonal(x, 0, i, j), -1, i)
            letters.pop(j)
    return x, letters


def _contract(x: Any, of_x: list[str], y: Any, of_y: list[str], later: set[str]) -> tuple[Any, list[str]]:
    """The product of two operands, summed over the letters that neither the result nor a later operand has."""
    sizes_x, sizes_y = dict(zip(of_x, x.shape, strict=True)), dict(zip(of_y, y.shape, strict=True))
    for k in sizes_x.keys() & sizes_y.keys():
        if sizes_x[k] != sizes_y[k] and 1 not in (sizes_x[k], sizes_y[k]):
            raise ValueError(f"einsum: {k!r} stands for sizes {sizes_x[k]} and {sizes_y[k]}")
    both = [k for k in of_x if k in sizes_y]
    summed = [k for k in both if k not in later and sizes_x[k] == sizes_y[k]]
    batch = [k for k in both if k not in summed]
    only_x, only_y = [k for k in of_x if k not in sizes_y], [k for k in of_y if k not in sizes_x]
    lead = [max(sizes_x[k], sizes_y[k]) if 0 not in (sizes_x[k], sizes_y[k]) else 0 for k in batch]

    def laid_out(t: Any, names: list[str], order: list[list[str]], sizes: dict[str, int]) -> Any:
        t = permute(t, *[names.index(k) for part in order for k in part]) if names else t
        if [sizes[k] for k in batch] != lead:
            t = broadcast_to(t, (*lead, *t.shape[len(lead) :]))
        return reshape(t, math.prod(lead), *[math.prod(sizes[k] for k in part) for part in order[1:]])

    left = laid_out(x, of_x, [batch, only_x, summed], sizes_x)
    right = laid_out(y, of_y, [batch, summed, only_y], sizes_y)
    shape = [*lead, *[sizes_x[k] for k in only_x], *[sizes_y[k] for k in only_y]]
    return reshape(matmul(left, right), *shape), batch + only_x + only_y
