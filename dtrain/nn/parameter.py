"""Tensors that are trained, and those that are only kept."""

from __future__ import annotations

from dtrain.autograd import Tensor

__all__ = ["Buffer", "Parameter"]


class Parameter(Tensor):
    """A tensor that a Module trains: an attribute of this type is found by `Module.parameters()`."""

    __slots__ = ()

    def __init__(self, data: Tensor, requires_grad: bool = True) -> None:
        super().__init__(data.array)
        if requires_grad:
            self.requires_grad_()

    def __repr__(self) -> str:
        return f"Parameter({super().__repr__()})"


class Buffer(Tensor):
    """A tensor that a Module keeps and saves but does not train: an attribute of this type is found by `buffers()`.

    Assigning one is `Module.register_buffer`. persistent=False leaves it out of the state dict.
    """

    __slots__ = ("persistent",)

    def __init__(self, data: Tensor, *, persistent: bool = True) -> None:
        super().__init__(data.array)
        self.persistent = persistent
