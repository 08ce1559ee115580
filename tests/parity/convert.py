"""The same values on both sides: PyTorch's tensors, dtypes, functions and modules, and dtrain's twins of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import dtrain
from dtrain.nn import functional
from tests.parity.scope import OutOfScope

__all__ = ["Twins", "array_of", "load", "twin_dtype"]


def array_of(tensor: Any) -> np.ndarray:
    """The values of a PyTorch tensor, copied."""
    return np.array(tensor.numpy(force=True), order="K", copy=True)


def twin_dtype(dtype: Any) -> np.dtype:
    """NumPy's dtype of the same name. Raises OutOfScope where dtrain has none."""
    name = str(dtype).removeprefix("torch.")
    if name.startswith("complex") or name in ("bfloat16", "uint16", "uint32", "uint64") or "float8" in name:
        raise OutOfScope(f"dtype {name}")
    return np.dtype(name)


class Twins:
    """Converts arguments; `leaves` are the pairs (PyTorch's, dtrain's) of tensors that need gradients."""

    def __init__(self) -> None:
        self.leaves: list[tuple[Any, Any]] = []
        self.made: dict[int, tuple[Any, Any]] = {}

    def of(self, value: Any) -> tuple[Any, Any]:
        """(PyTorch's, dtrain's) of an argument: copies where it is, or holds, tensors."""
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, torch.nn.utils.rnn.PackedSequence):
            theirs, ours = zip(*(self.of(v) for v in value), strict=True)
            return type(value)(*theirs), dtrain.nn.utils.rnn.PackedSequence(*ours)
        if isinstance(value, torch.Size):
            return value, tuple(value)
        if isinstance(value, (list, tuple)):
            pairs = [self.of(v) for v in value]
            return type(value)([p[0] for p in pairs]), type(value)([p[1] for p in pairs])
        if isinstance(value, dict):
            pairs = {k: self.of(v) for k, v in value.items()}
            return {k: p[0] for k, p in pairs.items()}, {k: p[1] for k, p in pairs.items()}
        return value, self._other(value)

    def _tensor(self, value: Any) -> tuple[Any, Any]:
        if id(value) not in self.made:
            if value.layout != torch.strided:
                raise OutOfScope("sparse tensors")
            if value.is_meta:
                raise OutOfScope("tensors without values, for compilers")
            if value.ndim > 64:
                raise OutOfScope("NumPy's arrays have 64 dimensions at most")
            twin_dtype(value.dtype)
            theirs = value.detach().clone().requires_grad_(value.requires_grad)
            ours = dtrain.Tensor(array_of(value), value.requires_grad)
            self.made[id(value)] = theirs, ours
            self.made[id(ours)] = value, ours  # keeps `value` alive, and its id its own
            if value.requires_grad:
                self.leaves.append((theirs, ours))
        return self.made[id(value)]

    def _other(self, value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return twin_dtype(value)
        if isinstance(value, (torch.memory_format, torch.layout, torch.Generator)):
            raise OutOfScope(f"{type(value).__name__} as an argument")
        if isinstance(value, torch.device):
            return str(value)
        if isinstance(value, torch.nn.Module):
            return _module(value)
        if callable(value) and hasattr(torch.nn.functional, getattr(value, "__name__", "")):
            return getattr(functional, value.__name__)
        return value


def _module(module: Any) -> Any:
    """dtrain's twin of a module that is an argument of another one."""
    name = type(module).__name__
    twin = getattr(dtrain.nn, name)
    if isinstance(module, torch.nn.TransformerEncoderLayer):
        activation = getattr(functional, module.activation.__name__)
        made = twin(
            module.self_attn.embed_dim, module.self_attn.num_heads, module.linear1.out_features, module.dropout.p,
            activation, module.norm1.eps, module.self_attn.batch_first, module.norm_first,
            module.linear1.bias is not None,
        )  # fmt: skip
    elif isinstance(module, torch.nn.PairwiseDistance):
        made = twin(module.norm, module.eps, module.keepdim)
    else:
        raise OutOfScope(f"a {name} as an argument")
    return load(made, module)


def load(ours: Any, theirs: Any) -> Any:
    """dtrain's module in float64 with the values and the mode of PyTorch's: the keys must be the same."""
    ours.double()
    ours.load_state_dict({name: array_of(value) for name, value in theirs.state_dict().items()})
    return ours.train(theirs.training)
