"""PyTorch's `torch.func`: of it, `functional_call`."""

from __future__ import annotations

from dtrain.nn.utils.stateless import functional_call

__all__ = ["functional_call"]
