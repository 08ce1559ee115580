"""What two results have in common: values, shapes, dtypes, gradients and gradients of gradients."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch

import dtrain
from tests.parity.convert import array_of, twin_dtype
from tests.parity.scope import OutOfScope

__all__ = ["Mismatch", "check_gradgrad", "check_gradients", "check_same", "has_gradgrad", "tensors_of", "without_ties"]

RTOL = {"float64": 1e-6, "float32": 1e-5, "float16": 2e-3}
ATOL = {"float64": 1e-8, "float32": 1e-6, "float16": 1e-3}


class Mismatch(Exception):
    """dtrain's result is not PyTorch's."""


def check_same(got: Any, want: Any, what: str = "the result", values: bool = True) -> None:
    """Raise Mismatch unless got is dtrain's form of want, through tuples, lists and dicts."""
    if isinstance(want, torch.Tensor):
        _check_tensor(got, want, what, values)
    elif isinstance(want, torch.nn.utils.rnn.PackedSequence):
        for field in want._fields:
            check_same(getattr(got, field), getattr(want, field), f"{what}.{field}", values)
    elif isinstance(want, (tuple, list)):
        if not isinstance(got, (tuple, list)) or len(got) != len(want):
            raise Mismatch(f"{what} is {_kind(got)}, not {_kind(want)}")
        for i, (g, w) in enumerate(zip(got, want, strict=True)):
            check_same(g, w, f"{what}[{i}]", values)
    elif isinstance(want, torch.dtype):
        if got != twin_dtype(want):
            raise Mismatch(f"{what} is {got}, not {want}")
    elif isinstance(want, (bool, type(None), str)):
        if got is not want and got != want or isinstance(got, dtrain.Tensor):
            raise Mismatch(f"{what} is {_kind(got)} {got}, not {want}")
    elif isinstance(want, (int, float)) and (
        isinstance(got, dtrain.Tensor) or values and not np.allclose(got, want, 1e-6, 1e-8, equal_nan=True)
    ):
        raise Mismatch(f"{what} is {_kind(got)} {got}, not {want}")


def _kind(x: Any) -> str:
    return f"{type(x).__name__} of {len(x)}" if isinstance(x, (tuple, list)) else type(x).__name__


def _check_tensor(got: Any, want: Any, what: str, values: bool) -> None:
    if not isinstance(got, dtrain.Tensor):
        raise Mismatch(f"{what} is {_kind(got)}, not a Tensor")
    dtype = twin_dtype(want.dtype)
    if got.shape != tuple(want.shape):
        raise Mismatch(f"{what} has shape {got.shape}, not {tuple(want.shape)}")
    if got.dtype != dtype:
        raise Mismatch(f"{what} has dtype {got.dtype}, not {dtype}")
    if values:
        _check_close(got.array, array_of(want), what)


def _check_close(got: np.ndarray, want: np.ndarray, what: str) -> None:
    if want.dtype.kind == "f":
        name = want.dtype.name
        same = np.isclose(got, want, RTOL[name], ATOL[name], equal_nan=True)
    else:
        same = got == want
    if not np.all(same):
        i = tuple(int(k) for k in np.argwhere(~np.asarray(same))[0])
        raise Mismatch(
            f"{what} differs in {np.sum(~same)} of {same.size} elements; at {i}: {got[i]!s}, not {want[i]!s}"
        )


def without_ties(got: Any, want: Any, source: Any, dim: int) -> Any:
    """got with want's indices in the place of its own where both lead to the same elements of source along dim.

    For results of which PyTorch leaves open which of equal elements comes first.
    """
    if isinstance(want, torch.Tensor):
        ours, theirs, x = got.array, array_of(want), np.atleast_1d(array_of(source))
        if got.dtype != np.int64 or ours.shape != theirs.shape or not ours.ndim:
            return got
        ordered = np.sort(ours, dim)
        distinct = not (np.diff(ordered, axis=dim) == 0).any()
        same = np.array_equal(np.take_along_axis(x, ours, dim), np.take_along_axis(x, theirs, dim))
        return dtrain.Tensor(theirs) if distinct and same else got
    values, indices = got
    return values, without_ties(indices, want[1], source, dim)


def tensors_of(value: Any, kind: type) -> list[Any]:
    """The tensors in nested tuples, lists and dicts, in order."""
    if isinstance(value, kind):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in tensors_of(v, kind)] if isinstance(value, (tuple, list)) else []


def _differentiated(got: Any, want: Any) -> tuple[list[Any], list[Any]]:
    """The outputs that need gradients in PyTorch: dtrain's, PyTorch's."""
    ours, theirs = tensors_of(got, dtrain.Tensor), tensors_of(want, torch.Tensor)
    chosen = [i for i, w in enumerate(theirs) if w.requires_grad]
    return [ours[i] for i in chosen], [theirs[i] for i in chosen]


def _seeds(like: list[Any], seed: int) -> list[tuple[Any, Any]]:
    """Random gradients for PyTorch's tensors: (PyTorch's, dtrain's) of each, both of which need gradients."""
    rng = np.random.default_rng(seed)
    arrays = [np.array(rng.standard_normal(tuple(t.shape)), twin_dtype(t.dtype)) for t in like]
    return [(torch.from_numpy(a.copy()).requires_grad_(), dtrain.Tensor(a, True)) for a in arrays]


def _check_gradient(got: Any, want: Any, what: str) -> None:
    """No gradient, on either side, is one of zeros."""
    if want is None:
        if got is not None and np.any(got.array):
            raise Mismatch(f"{what} is not zero, PyTorch's is None")
        return
    if got is None:
        got = dtrain.Tensor(np.zeros(tuple(want.shape), twin_dtype(want.dtype)))
    check_same(got, want.detach(), what)


def check_gradients(got: Any, want: Any, leaves: list[tuple[Any, Any]]) -> None:
    """Raise Mismatch unless random gradients of the outputs give the same gradients of the leaves."""
    ours, theirs = _differentiated(got, want)
    if not theirs:
        return
    seeds = _seeds(theirs, 1)
    expected = torch.autograd.grad(theirs, [t for t, _ in leaves], [t for t, _ in seeds], allow_unused=True)
    recorded = [i for i, t in enumerate(ours) if t.requires_grad]
    if recorded:
        dtrain.autograd.backward([ours[i] for i in recorded], [seeds[i][1].detach() for i in recorded])
    for i, ((_, leaf), g) in enumerate(zip(leaves, expected, strict=True)):
        _check_gradient(leaf.grad, g, f"gradient {i}")


def has_gradgrad() -> bool:
    """Whether dtrain's gradients can be differentiated again."""
    return "create_graph" in inspect.signature(dtrain.autograd.grad).parameters


def check_gradgrad(got: Any, want: Any, leaves: list[tuple[Any, Any]]) -> None:
    """Raise Mismatch unless the gradients' own gradients, with respect to leaves and seeds, are the same."""
    ours, theirs = _differentiated(got, want)
    if not theirs:
        return
    seeds = _seeds(theirs, 1)
    first = torch.autograd.grad(
        theirs, [t for t, _ in leaves], [t for t, _ in seeds], create_graph=True, allow_unused=True
    )
    recorded = [i for i, t in enumerate(ours) if t.requires_grad]
    our_first: Any = [None] * len(leaves)
    if recorded:
        our_first = dtrain.autograd.grad(
            [ours[i] for i in recorded], [t for _, t in leaves], [seeds[i][1] for i in recorded],
            create_graph=True, allow_unused=True,
        )  # fmt: skip
    again = [i for i, g in enumerate(first) if g is not None and g.requires_grad]
    if not again:
        return
    ends = [*leaves, *seeds]
    factors = _seeds([first[i] for i in again], 2)
    try:
        second = torch.autograd.grad(
            [first[i] for i in again], [t for t, _ in ends], [t.detach() for t, _ in factors], allow_unused=True
        )
    except RuntimeError as error:
        if "derivative for" in str(error):
            raise OutOfScope("PyTorch has no second gradient") from None
        raise
    our_second: Any = [None] * len(ends)
    kept = [(i, t.detach()) for i, (_, t) in zip(again, factors, strict=True)]
    kept = [(i, t) for i, t in kept if our_first[i] is not None and our_first[i].requires_grad]
    if kept:
        our_second = dtrain.autograd.grad(
            [our_first[i] for i, _ in kept], [t for _, t in ends], [t for _, t in kept], allow_unused=True
        )
    for i, (g, w) in enumerate(zip(our_second, second, strict=True)):
        _check_gradient(g, w, f"second gradient {i}")
