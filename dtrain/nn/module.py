"""Module: parameters, buffers and other modules, and a `forward` that uses them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, as_one_call
from dtrain.autograd.graph import walk
from dtrain.autograd.mode import mode
from dtrain.autograd.under_way import under_way
from dtrain.backend import to_device
from dtrain.backend.halves import bfloat16, is_float
from dtrain.nn.attributes import Kind
from dtrain.nn.hooks import Hooked
from dtrain.nn.parameter import Buffer, Parameter
from dtrain.nn.state import IncompatibleKeys, Stateful

__all__ = ["IncompatibleKeys", "Module"]


def _passed(t: Any) -> Any:
    """Where gradients pass: a weak reference to a node, or to a Tensor that has none; None where there are none."""
    if not isinstance(t, Tensor):
        return None
    node = t._node
    return _ref(node) if node is not None else _ref(t) if is_float(t.array.dtype) else None


_ref = weakref.ref


class Module(Hooked, Stateful):
    """Base of all layers and models; subclass it, make layers in `__init__`, use them in `forward`.

    The attributes of an instance are the only record: those of type Parameter are its parameters, those of type Module
    its children, those named by `register_buffer` (or assigned as `nn.Buffer`) its buffers. What is called around
    `forward` is in hooks.py, what makes and loads state dicts in state.py. Raises NotImplementedError when it is called
    without a `forward`.
    """

    training = True

    # As dictionaries, under PyTorch's names.
    _parameters = Kind(lambda _, name, value: isinstance(value, Parameter))
    _buffers = Kind(lambda module, name, _: name in module.__dict__.get("_buffer_names", {}))
    _modules = Kind(lambda _, name, value: isinstance(value, Module))

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor) and not isinstance(value, Parameter):
            if isinstance(self.__dict__.get(name), Parameter):
                raise TypeError(
                    f"{type(self).__name__}.{name} is a parameter and would be lost; "
                    "assign an nn.Parameter, or write into it under dtrain.no_grad()"
                )
            if isinstance(value, Buffer):
                self.__dict__.setdefault("_buffer_names", {})[name] = getattr(value, "persistent", True)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self.__dict__.get("_buffer_names", {}).pop(name, None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.forward(*args, **kwargs) if self._call_hooks is None else self._call_hooked(args, kwargs)
        if mode.tape is not None:
            mode.tape.modules[id(self)] = self, self.training
        if mode.enabled:
            if isinstance(output, (tuple, list)):
                self.__dict__["_last_call"] = len(output), list(map(_passed, (*args, *output)))
            else:
                self.__dict__["_last_call"] = 1, [*map(_passed, args), _passed(output)]
        return output

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; subclasses define it."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def backward(self, *grad_outputs: Tensor) -> Any:
        """Send a gradient back through this module's last call; return the gradient of its input.

        grad_outputs: one gradient per output, of its shape; none where the output is one number.
        Parameters get their gradients on the way. With several floating-point inputs the result
        is a tuple. Raises RuntimeError where there was no call, or its graph is gone (used up, or its output was
        not kept), ValueError for gradients of another number or shape.
        """
        name = type(self).__name__
        if "_last_call" not in self.__dict__:
            raise RuntimeError(f"{name}.backward was called before a forward call with gradients on")
        n, refs = self.__dict__["_last_call"][:2]
        inputs = [ref() for ref in refs[: len(refs) - n] if ref is not None]
        outputs = [ref() for ref in refs[len(refs) - n :] if ref is not None]
        nodes: list[Any] = [end for end in outputs if not isinstance(end, Tensor)]
        if not nodes or any(node is None or node.pullbacks is None for node in nodes):
            raise RuntimeError(f"{name}.backward: the graph of the last call is gone; call the module again first")
        if not grad_outputs and len(nodes) == 1:
            grad_outputs = (Tensor(np.ones((), np.float32)),)
        if len(grad_outputs) != len(nodes):
            raise ValueError(f"{name}.backward needs {len(nodes)} gradients, one per output, got {len(grad_outputs)}")
        for node, g in zip(nodes, grad_outputs, strict=True):
            if g.shape != node.shape:
                raise ValueError(f"{name}.backward: the output has shape {node.shape}, its gradient {g.shape}")
        with under_way(None):
            gradients = walk(nodes, [g.array for g in grad_outputs], wanted=inputs, leave=True)
        # What was walked is freed; the inputs' graph must live until the modules before are sent their gradients.
        self.__dict__["_last_call"] = n, refs, inputs
        result = [None if g is None else Tensor(g) for g in gradients]
        return result[0] if len(result) == 1 else tuple(result)

    # -- what it holds ---------------------------------------------------------------------------

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Make `tensor` an attribute that moves and is saved with the module but is not trained.

        persistent=False leaves it out of the state dict. Raises TypeError for what is neither a Tensor nor None,
        KeyError for a name that is taken or cannot be one.
        """
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"a buffer is a Tensor or None, got {type(tensor).__name__} for {name!r}")
        self._check_name(name, name in self.__dict__.get("_buffer_names", {}))
        self.__dict__.setdefault("_buffer_names", {})[name] = persistent
        setattr(self, name, tensor)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Make `param` an attribute; None for one that a subclass may leave out.

        Raises TypeError for what is neither a Parameter nor None, KeyError for a name that is taken or cannot be one.
        """
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"a parameter is an nn.Parameter or None, got {type(param).__name__} for {name!r}")
        self._check_name(name, isinstance(self.__dict__.get(name, ""), Parameter | None))
        setattr(self, name, param)

    def add_module(self, name: str, module: Module | None) -> None:
        """Make `module` a child under `name`.

        Raises TypeError for what is neither a Module nor None, KeyError for a name that is taken or cannot be one.
        """
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"a child is a Module, got {type(module).__name__} for {name!r}")
        self._check_name(name, isinstance(self.__dict__.get(name, ""), Module | None))
        setattr(self, name, module)

    register_module = add_module

    def _check_name(self, name: str, same_kind: bool) -> None:
        """Raise unless an attribute may be called `name`; one of the same kind may be replaced."""
        if not isinstance(name, str):
            raise TypeError(f"a name is a string, got {type(name).__name__}")
        if not name or "." in name:
            raise KeyError(f"a name is not empty and has no dot, got {name!r}")
        if not same_kind and hasattr(self, name):
            raise KeyError(f"{type(self).__name__} has an attribute {name!r} already")

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the modules that are attributes of this one, each once."""
        seen = set()
        for name, value in list(self.__dict__.items()):  # a forward that loops over children may set attributes
            if isinstance(value, Module) and id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def children(self) -> Iterator[Module]:
        """The modules that are attributes of this one."""
        return (module for _, module in self.named_children())

    def named_modules(
        self, memo: set[Any] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of this module and all below it, each once (or as often as it is used), parents first.

        memo: modules to leave out, with those below them; what is found joins it.
        """
        memo = set() if memo is None else memo
        seen = {below for module in memo for _, below in module._walk("")}
        for name, module in self._walk(prefix):
            if module not in seen or not remove_duplicate:
                seen.add(module)
                memo.add(module)
                yield name, module

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def _walk(self, prefix: str) -> Iterator[tuple[str, Module]]:
        """Like named_modules, but a module that is used in two places comes twice."""
        yield prefix, self
        for name, value in self.__dict__.items():
            if isinstance(value, Module):
                yield from value._walk(f"{prefix}.{name}" if prefix else name)

    def _named_tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor, bool]]:
        for path, module in self._walk(prefix):
            for name, value, saved in module._own_tensors():
                yield (f"{path}.{name}" if path else name), value, saved

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter) of this module and those below it; a shared one once, under its first name."""
        return self._named(prefix, recurse, remove_duplicate, True)  # type: ignore[return-value]

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters of this module and of those below it."""
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, buffer) of this module and those below it; a shared one once, under its first name."""
        return self._named(prefix, recurse, remove_duplicate, False)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers of this module and of those below it."""
        return (b for _, b in self.named_buffers(recurse=recurse))

    def _named(
        self, prefix: str, recurse: bool, remove_duplicate: bool, parameters: bool
    ) -> Iterator[tuple[str, Tensor]]:
        seen = set()
        own = ((f"{prefix}.{n}" if prefix else n, t, s) for n, t, s in self._own_tensors())
        for name, value, _ in self._named_tensors(prefix) if recurse else own:
            if isinstance(value, Parameter) == parameters and (id(value) not in seen or not remove_duplicate):
                seen.add(id(value))
                yield name, value

    def get_submodule(self, target: str) -> Module:
        """The module below this one with the dotted name `target`. Raises AttributeError where there is none."""
        module: Any = self
        for name in target.split(".") if target else ():
            module = getattr(module, name)
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter with the dotted name `target`. Raises AttributeError where there is none."""
        return self._get(target, "parameter", lambda module, name: isinstance(getattr(module, name, None), Parameter))

    def get_buffer(self, target: str) -> Tensor:
        """The buffer with the dotted name `target`. Raises AttributeError where there is none."""
        return self._get(target, "buffer", lambda module, name: name in dict(module.named_buffers(recurse=False)))

    def _get(self, target: str, kind: str, is_one: Callable[[Module, str], bool]) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if not is_one(module, name):
            raise AttributeError(f"{type(module).__name__} has no {kind} {name!r}")
        return getattr(module, name)

    def set_submodule(self, target: str, module: Module) -> None:
        """Put `module` in the place with the dotted name `target`. Raises AttributeError where there is none."""
        path, _, name = target.rpartition(".")
        self.get_submodule(path).add_module(name, module)

    # -- what is done to all of it ---------------------------------------------------------------

    def train(self, mode: bool = True) -> Any:
        """Training behaviour (dropout, batch statistics) on or off, here and below."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Any:
        """Training behaviour off, here and below."""
        return self.train(False)

    @as_one_call
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or set them to zero."""
        for p in self.parameters():
            if set_to_none:
                p.grad = None
            elif p.grad is not None:
                p.grad.array[...] = 0

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Whether the parameters are trained."""
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    def apply(self, function: Callable[[Module], None]) -> Any:
        """Call `function` on all modules, children before parents."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move to a device, or convert floating-point parameters and buffers to a dtype, in place.

        to("cpu"), to(dtrain.float64), to(device=..., dtype=...), to(tensor).
        """

        def moved(tensor: Tensor) -> Tensor:
            found = tensor.to(*args, **kwargs)
            if found.dtype != tensor.dtype and not (tensor.is_floating_point() and found.is_floating_point()):
                return Tensor(to_device(tensor.array, found.device))
            return found

        return self._apply(moved)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Replace the values of all parameters and buffers by fn(values), in place."""
        named = (self.named_parameters(recurse=recurse), self.named_buffers(recurse=recurse))
        for tensor in [t for tensors in named for _, t in tensors]:
            found = fn(tensor.data)
            if found.array is not tensor.array:
                tensor.data = found
                tensor._node = None
        return self

    def type(self, dst_type: Any) -> Any:
        """All parameters and buffers to a dtype, those of integers too."""
        return self._apply(lambda t: t.to(np.dtype(dst_type)))

    def float(self) -> Any:
        """Floating-point parameters and buffers to float32."""
        return self.to(np.dtype(np.float32))

    def double(self) -> Any:
        """Floating-point parameters and buffers to float64."""
        return self.to(np.dtype(np.float64))

    def half(self) -> Any:
        """Floating-point parameters and buffers to float16."""
        return self.to(np.dtype(np.float16))

    def bfloat16(self) -> Any:
        """Floating-point parameters and buffers to bfloat16."""
        return self.to(bfloat16)

    def cpu(self) -> Any:
        """Parameters and buffers to the CPU."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Any:
        """Parameters and buffers to a GPU. Raises ValueError where there is none."""
        return self.to("cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else device)

    def to_empty(self, *, device: Any, recurse: bool = True) -> Any:
        """Parameters and buffers to a device, with values of no particular kind."""
        return self._apply(lambda t: Tensor(to_device(np.empty_like(t.array), device)), recurse)

    # -- the rest --------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What to print between the brackets of a layer."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        children = [
            f"({name}): {child!r}".replace("\n", "\n  ")
            for name, child in self.__dict__.items()
            if isinstance(child, Module)
        ]
        lines = (extra.split("\n") if extra else []) + children
        one_line = not children and len(lines) < 2
        return f"{type(self).__name__}(" + (f"{extra})" if one_line else "\n  " + "\n  ".join(lines) + "\n)")

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if not name[0].isdigit()]  # Sequential's children, say

    def __getstate__(self) -> dict[str, Any]:
        # What a forward has left there (a weight that weight_norm has computed) is kept without its graph.
        return {
            name: value.detach() if isinstance(value, Tensor) and not value.is_leaf else value
            for name, value in self.__dict__.items()
            if name != "_last_call"
        }
