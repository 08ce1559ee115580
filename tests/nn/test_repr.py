"""What modules print, beside PyTorch's."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from dtrain import nn

# By the first letters of the name. Pooling layers print fewer of their arguments than PyTorch's, and as given.
OTHERS = {
    "Lazy": "not provided",
    "LinearCrossEntropyLoss": "not provided",
    "MultiheadAttention": "PyTorch's prints a private class for its last layer",
    "Transformer": "PyTorch's prints a private class of attention's last layer",
}

MORE: dict[str, Any] = {
    "conv": lambda o: o.Conv2d(4, 6, (3, 2), 2, "valid", (1, 2), 2, False, "circular"),
    "transposed": lambda o: o.ConvTranspose1d(4, 4, 3, 2, 1, 1, 2, False, 3),
    "lrn": lambda o: o.CrossMapLRN2d(5),
    "bag": lambda o: o.EmbeddingBag(4, 5, 1.0, 3.0, True, "sum", padding_idx=-1),
    "embedding": lambda o: o.Embedding(4, 5, 1, 1.0, 3.0, True, True),
    "adaptive": lambda o: o.AdaptiveLogSoftmaxWithLoss(16, 10, [2, 5]),
    "sync": lambda o: o.SyncBatchNorm(3),
    "batch norm": lambda o: o.BatchNorm1d(3, affine=False, track_running_stats=False),
    "layer norm": lambda o: o.LayerNorm((3, 4), elementwise_affine=False),
    "group norm": lambda o: o.GroupNorm(2, 4, bias=False),
}


@pytest.mark.parametrize("name", MORE)
def test_repr_is_pytorchs(torch, name):
    assert repr(MORE[name](nn)) == repr(MORE[name](torch.nn))


def test_reprs_of_all_modules_are_pytorchs(torch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_modules import module_db

        different, count = [], 0
        for info in module_db:
            name = info.name.removeprefix("nn.")
            if not hasattr(nn, name) or "Pool" in name or any(map(name.startswith, OTHERS)):
                continue
            samples = info.module_inputs_func(
                info, device="cpu", dtype=torch.float32, requires_grad=False, training=True
            )
            for sample in samples:
                args, kwargs = sample.constructor_input.args, sample.constructor_input.kwargs
                if any(isinstance(value, torch.Tensor) or callable(value) for value in (*args, *kwargs.values())):
                    continue
                ours, theirs = repr(getattr(nn, name)(*args, **kwargs)), repr(info.module_cls(*args, **kwargs))
                count += 1
                if ours != theirs:
                    different.append(f"{ours} is {theirs}")
        assert count > 200
        assert not different, "\n".join(different)
