"""An op beside PyTorch's of the same name: values, gradients, second gradients, errors."""

import warnings
from functools import reduce

import numpy as np
import pytest

import dtrain


def _both(name):
    torch = pytest.importorskip("torch")
    return torch, reduce(getattr, name.split("."), dtrain), reduce(getattr, name.split("."), torch)


def _gradients(library, function, tensors, weights):
    """The value, its gradients, and the gradients of their weighted sum."""
    y = function(*tensors)
    w = library.as_tensor(np.cos(np.arange(y.numel())).reshape(tuple(y.shape)).astype(weights))
    first = library.autograd.grad((y * w).sum(), tensors, create_graph=True)
    found = [y, *first]
    ends = [(g * library.as_tensor(np.sin(1.0 + np.arange(g.numel())).reshape(tuple(g.shape)).astype(weights))).sum()
            for g in first]  # fmt: skip
    total = ends[0]
    for e in ends[1:]:
        total = total + e
    if len(tensors) > 1 and total.requires_grad:
        found += library.autograd.grad(total, tensors, allow_unused=True)
    return [None if t is None else t.detach().numpy() for t in found]


def same(name, arrays, rtol=1e-9, **options):
    """Both libraries' functions of arrays (all need gradients) agree: values, first and second gradients."""
    torch, ours, theirs = _both(name)
    kind = arrays[0].dtype
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = _gradients(
            torch, lambda *t: theirs(*t, **options), [torch.tensor(a, requires_grad=True) for a in arrays], kind
        )
    found = _gradients(
        dtrain, lambda *t: ours(*t, **options), [dtrain.tensor(a, requires_grad=True) for a in arrays], kind
    )
    for mine, other in zip(found, expected, strict=True):
        if other is None or mine is None:
            assert not np.any(other if mine is None else mine)
            continue
        assert mine.dtype == other.dtype == kind
        np.testing.assert_allclose(mine, other, rtol=rtol, atol=rtol)


def same_error(name, arrays, arguments, message):
    """Both raise; ours says `message`."""
    torch, ours, theirs = _both(name)
    with warnings.catch_warnings(), pytest.raises((RuntimeError, ValueError, TypeError, IndexError)):
        warnings.simplefilter("ignore")
        theirs(*map(torch.tensor, arrays), *arguments)
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        ours(*map(dtrain.tensor, arrays), *arguments)
