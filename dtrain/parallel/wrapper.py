"""What modules that wrap the user's have in common: its names, and which microbatch they are called with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dtrain.autograd import Tensor
from dtrain.nn.module import Module

__all__ = ["Wrapper", "given"]


class Wrapper(Module):
    """Names, mode and state dict are those of `module`."""

    def __init__(self, module: Module) -> None:
        super().__init__()
        self.module = module

    @property
    def training(self) -> bool:
        """Whether the module is in training mode."""
        return self.module.training

    @training.setter
    def training(self, mode: bool) -> None:
        self.module.training = mode

    def _walk(self, prefix: str) -> Iterator[tuple[str, Module]]:
        """Names below the wrapper are the module's own."""
        return self.module._walk(prefix)

    def state_dict(
        self, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """The module's state dict, under the module's own names."""
        return self.module.state_dict(destination, prefix, keep_vars)

    def _load_below(self, given: Any, prefix: str, *lists: Any) -> None:
        """Load the module's state; every rank must load the same."""
        self.module._load_below(given, prefix, *lists)


def given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, tuple[int, int] | None]:
    """What a module is called with: how many samples (the first dimension of the first tensor, or 1), and which
    microbatch of how many, where a DataLoader has said so."""
    tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    samples = tensors[0].shape[0] if tensors and tensors[0].ndim else 1
    return samples, next((a.microbatch for a in tensors if hasattr(a, "microbatch")), None)
