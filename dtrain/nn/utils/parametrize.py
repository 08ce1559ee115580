"""Parameters that are computed from others: PyTorch's `torch.nn.utils.parametrize`."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from dtrain.autograd import Tensor, no_grad
from dtrain.nn.containers import ModuleDict, ModuleList
from dtrain.nn.module import Module
from dtrain.nn.parameter import Parameter
from dtrain.nn.utils.norms import check_free

__all__ = [
    "ParametrizationList", "cached", "is_parametrized", "register_parametrization", "remove_parametrizations",
    "type_before_parametrizations",
]  # fmt: skip

#: What was computed inside `cached()`: (module's id, name) -> tensor; None outside.
_computed: ContextVar[dict[tuple[int, str], Tensor] | None] = ContextVar("computed", default=None)


@contextmanager
def cached() -> Iterator[None]:
    """Inside, every parametrized tensor is computed once and kept until the outermost `with` ends."""
    token = _computed.set({}) if _computed.get() is None else None
    try:
        yield
    finally:
        if token is not None:
            _computed.reset(token)


def _same_kind(where: str, before: Tensor, after: Any) -> None:
    if not isinstance(after, Tensor):
        raise ValueError(f"{where} must give a tensor, got {type(after).__name__}")
    if (after.dtype, after.shape) != (before.dtype, before.shape):
        raise ValueError(
            f"{where} changes the tensor from {before.dtype} of shape {before.shape} to {after.dtype} of shape "
            f"{after.shape}; it may do so with unsafe=True only"
        )


def _put(module: Module, name: str, value: Tensor) -> None:
    if isinstance(value, Parameter):
        module.register_parameter(name, value)
    else:
        module.register_buffer(name, value)


class ParametrizationList(ModuleList):
    """The functions (modules) that make one tensor, and what they make it of: `original`, or `original0`, ...

    modules: applied one after the other. original: what the tensor was; the modules' `right_inverse`, where there are,
    say what to make it of. Raises ValueError where shape or dtype change, unless unsafe.
    """

    def __init__(self, modules: Sequence[Module], original: Any, unsafe: bool = False) -> None:
        if not modules:
            raise ValueError("ParametrizationList needs at least one module")
        super().__init__(modules)
        self.unsafe = unsafe
        with no_grad():
            found: Any = original.detach()
            for module in reversed(list(self)):
                inverse = getattr(module, "right_inverse", None)
                if inverse is not None:
                    with suppress(NotImplementedError):  # then it is taken for the identity
                        found = inverse(found)
        if not isinstance(found, (Tensor, Sequence)):
            raise ValueError(f"right_inverse must give a tensor or a sequence of them, got {type(found).__name__}")
        self.is_tensor = isinstance(found, Tensor)
        self.ntensors = 1 if isinstance(found, Tensor) else len(found)
        shape, dtype = original.shape, original.dtype
        kept = isinstance(found, Tensor) and found.shape == shape
        check_free("register_parametrization", original, "of the module", kept=kept)
        if isinstance(found, Tensor):
            if found.dtype != dtype:
                raise ValueError(f"right_inverse may not change the dtype, {dtype}, to {found.dtype}")
            original.data = found
            _put(self, "original", original)
        else:
            for i, part in enumerate(found):
                if not isinstance(part, Tensor):
                    raise ValueError(f"right_inverse must give tensors; element {i} is {type(part).__name__}")
                trained = isinstance(original, Parameter)
                _put(self, f"original{i}", Parameter(part, original.requires_grad) if trained else part)
        if not unsafe:
            made = self()
            if not isinstance(made, Tensor):
                raise ValueError(f"a parametrization must give a tensor, got {type(made).__name__}")
            if (made.dtype, made.shape) != (dtype, shape):
                raise ValueError(
                    f"a parametrization changes the tensor from {dtype} of shape {shape} to {made.dtype} of shape "
                    f"{made.shape}; it may do so with unsafe=True only"
                )

    def right_inverse(self, value: Tensor) -> None:
        """Let the parametrized tensor be `value`. Raises RuntimeError where a module has no right_inverse."""
        with no_grad():
            found: Any = value.detach()
            for module in reversed(list(self)):
                if not hasattr(module, "right_inverse"):
                    raise RuntimeError(f"the parametrization {type(module).__name__} has no right_inverse")
                found = module.right_inverse(found)
            parts = [found] if self.is_tensor else list(found)
            if len(parts) != self.ntensors:
                raise ValueError(f"right_inverse must give {self.ntensors} tensors, got {len(parts)}")
            for original, part in zip(self._originals(), parts, strict=True):
                if original.dtype != part.dtype:
                    raise ValueError(f"right_inverse gives {part.dtype} where the original is {original.dtype}")
                original.data = part

    def _originals(self) -> list[Tensor]:
        if self.is_tensor:
            return [self.original]  # type: ignore[attr-defined]
        return [getattr(self, f"original{i}") for i in range(self.ntensors)]

    def forward(self) -> Any:
        first, *others = list(self)
        x = first(*self._originals())
        for module in others:
            x = module(x)
        return x


class _Parametrized:
    """What a class of parametrized modules has beside the modules' own class."""

    parametrizations: ModuleDict

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        state: Any = copy.deepcopy(self.__getstate__(), memo)
        twin.__dict__.update(state)
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("a parametrized module cannot be pickled; save its state_dict() instead")


def is_parametrized(module: Any, tensor_name: str | None = None) -> bool:
    """Whether a tensor of the module is parametrized: the named one, or any."""
    if not isinstance(module, _Parametrized):
        return False
    made = module.parametrizations
    return len(made) > 0 if tensor_name is None else tensor_name in made


def _property(name: str) -> property:
    def get(module: Any) -> Any:
        computed = _computed.get()
        if computed is None:
            return module.parametrizations[name]()
        key = id(module), name
        if key not in computed:
            computed[key] = module.parametrizations[name]()
        return computed[key]

    return property(get, lambda module, value: module.parametrizations[name].right_inverse(value))


def register_parametrization(module: Any, tensor_name: str, parametrization: Module, *, unsafe: bool = False) -> Any:
    """From now on `module.tensor_name` is parametrization(what it was); returns the module.

    What it was is trained in its place, as `parametrizations.tensor_name.original`: the same Parameter, so that an
    optimizer goes on with it. A parametrization with `right_inverse` may say what to make a value of (one tensor, or
    several for several arguments of its forward, which are new Parameters); assigning to the tensor uses it, too. A
    second parametrization is applied to the result of the first. Raises ValueError for an unknown name, and where
    shape or dtype change unless unsafe; RuntimeError where an optimizer or DistributedDataParallel would not see it.
    """
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        made = module.parametrizations[tensor_name]
        if not unsafe:
            before = getattr(module, tensor_name)
            after = parametrization(before)
            _same_kind("a parametrization", before, after)
            if hasattr(parametrization, "right_inverse"):
                try:
                    back = parametrization.right_inverse(after)
                except NotImplementedError:
                    pass
                else:
                    _same_kind("right_inverse", before, back)
        made.append(parametrization)
        made.unsafe = made.unsafe or unsafe
        return module
    if tensor_name not in module._parameters and tensor_name not in module._buffers:
        raise ValueError(f"{type(module).__name__} has no parameter or buffer {tensor_name!r}")
    made = ParametrizationList([parametrization], getattr(module, tensor_name), unsafe)
    delattr(module, tensor_name)
    if not is_parametrized(module):
        cls = type(module)
        module.__class__ = type(f"Parametrized{cls.__name__}", (_Parametrized, cls), {"_before": cls})
        module.parametrizations = ModuleDict()
    setattr(type(module), tensor_name, _property(tensor_name))
    module.parametrizations[tensor_name] = made
    return module


def remove_parametrizations(module: Any, tensor_name: str, leave_parametrized: bool = True) -> Any:
    """Make the tensor one of the module's own again; returns the module.

    leave_parametrized: with its computed value; else with that of `original`. Raises ValueError where it is not
    parametrized, or has several originals and leave_parametrized is false.
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"{tensor_name!r} of this {type(module).__name__} is not parametrized")
    made = module.parametrizations[tensor_name]
    if made.is_tensor:
        original = made.original
        if leave_parametrized:
            with no_grad():
                original.data = getattr(module, tensor_name).detach()
    elif leave_parametrized:
        value = getattr(module, tensor_name)
        original = Parameter(value.detach()) if value.requires_grad else value
    else:
        raise ValueError(f"{tensor_name!r} is made of {made.ntensors} tensors; it cannot be left without them")
    delattr(type(module), tensor_name)
    del module.parametrizations[tensor_name]
    _put(module, tensor_name, original)
    if not is_parametrized(module):
        delattr(module, "parametrizations")
        module.__class__ = type(module)._before
    return module


def type_before_parametrizations(module: Any) -> Any:
    """The class of the module as it was before something was parametrized."""
    return type(module)._before if is_parametrized(module) else type(module)
