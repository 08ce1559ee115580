"""Module: parameters, buffers and other modules, and a `forward` that uses them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from dtrain.autograd import Tensor
from dtrain.autograd.graph import under_way, walk
from dtrain.autograd.mode import mode
from dtrain.backend import to_device
from dtrain.nn.parameter import Parameter

__all__ = ["IncompatibleKeys", "Module"]


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict` did not find, and what it found no use for."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """Base of all layers and models; subclass it, make layers in `__init__`, use them in `forward`.

    The attributes of an instance are the only record: those of type Parameter are its parameters,
    those of type Module its children, those named by `register_buffer` its buffers.
    """

    training = True

    def __setattr__(self, name: str, value: Any) -> None:
        lost = isinstance(value, Tensor) and not isinstance(value, Parameter)
        if lost and isinstance(self.__dict__.get(name), Parameter):
            raise TypeError(
                f"{type(self).__name__}.{name} is a parameter and would be lost; "
                "assign an nn.Parameter, or write into it under dtrain.no_grad()"
            )
        object.__setattr__(self, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.forward(*args, **kwargs)
        if mode.enabled:
            outputs = output if isinstance(output, (tuple, list)) else (output,)
            # Where gradients pass: nodes, or tensors that have none. Weak, so that nothing is kept alive.
            self.__dict__["_last_call"] = (
                len(outputs),
                [
                    weakref.ref(t._node or t) if isinstance(t, Tensor) and t.array.dtype.kind == "f" else None
                    for t in (*args, *outputs)
                ],
            )
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
        """Make `tensor` an attribute that moves and is saved with the module but is not trained."""
        self.__dict__.setdefault("_buffer_names", {})[name] = persistent
        setattr(self, name, tensor)

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """Make `parameter` an attribute; None for one that a subclass may leave out."""
        setattr(self, name, parameter)

    def add_module(self, name: str, module: Module | None) -> None:
        """Make `module` a child under `name`. Raises TypeError for what is neither a Module nor None."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"a child is a Module, got {type(module).__name__} for {name!r}")
        setattr(self, name, module)

    register_module = add_module

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

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of this module and all below it, each once, parents first."""
        seen = set()
        for name, module in self._walk(prefix):
            if id(module) not in seen:
                seen.add(id(module))
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

    def _own_tensors(self) -> Iterator[tuple[str, Tensor, bool]]:
        """(name, tensor, saved) of this module's own parameters, then of its own buffers."""
        for name, value in self.__dict__.items():
            if isinstance(value, Parameter):
                yield name, value, True
        yield from self._own_buffers()

    def _own_buffers(self) -> Iterator[tuple[str, Tensor, bool]]:
        """(name, tensor, saved) of this module's own buffers."""
        for name, saved in self.__dict__.get("_buffer_names", {}).items():
            value = self.__dict__.get(name)
            if value is not None:
                yield name, value, saved

    def _named_tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor, bool]]:
        for path, module in self._walk(prefix):
            for name, value, saved in module._own_tensors():
                yield (f"{path}.{name}" if path else name), value, saved

    def named_parameters(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter) of this module and those below it; a shared one once, under its first name."""
        return self._unique(prefix, recurse, True)  # type: ignore[return-value]

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters of this module and of those below it."""
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_buffers(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, buffer) of this module and those below it."""
        return self._unique(prefix, recurse, False)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers of this module and of those below it."""
        return (b for _, b in self.named_buffers(recurse=recurse))

    def _unique(self, prefix: str, recurse: bool, parameters: bool) -> Iterator[tuple[str, Tensor]]:
        seen = set()
        own = ((f"{prefix}.{n}" if prefix else n, t, s) for n, t, s in self._own_tensors())
        for name, value, _ in self._named_tensors(prefix) if recurse else own:
            if isinstance(value, Parameter) == parameters and id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def get_submodule(self, target: str) -> Module:
        """The module below this one with the dotted name `target`. Raises AttributeError where there is none."""
        module: Any = self
        for name in target.split(".") if target else ():
            module = getattr(module, name)
        return module

    # -- what is done to all of it ---------------------------------------------------------------

    def train(self, mode: bool = True) -> Any:
        """Training behaviour (dropout, batch statistics) on or off, here and below."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Any:
        """Training behaviour off, here and below."""
        return self.train(False)

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
        for tensor in [t for _, t in self.named_parameters()] + [t for _, t in self.named_buffers()]:
            moved = tensor.data.to(*args, **kwargs)
            if moved.dtype != tensor.dtype and not (tensor.is_floating_point() and moved.is_floating_point()):
                moved = Tensor(to_device(tensor.array, moved.device))
            if moved.array is not tensor.array:
                tensor.data = moved
                tensor._node = None
        return self

    def float(self) -> Any:
        """Floating-point parameters and buffers to float32."""
        return self.to(np.dtype(np.float32))

    def double(self) -> Any:
        """Floating-point parameters and buffers to float64."""
        return self.to(np.dtype(np.float64))

    def cpu(self) -> Any:
        """Parameters and buffers to the CPU."""
        return self.to("cpu")

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Dotted name -> tensor (sharing memory, without graph) of all parameters and persistent buffers."""
        return {name: value.detach() for name, value, saved in self._named_tensors(prefix.rstrip(".")) if saved}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy values into the parameters and buffers of the same names; tensors or NumPy arrays.

        Returns (missing_keys, unexpected_keys). Raises RuntimeError that lists the missing and unexpected
        ones (with strict) and those of another shape (always); then nothing was changed.
        """
        own = {name: value for name, value, saved in self._named_tensors() if saved}
        given = {name: np.asarray(v.array if isinstance(v, Tensor) else v) for name, v in state_dict.items()}
        missing = [name for name in own if name not in given]
        unexpected = [name for name in given if name not in own]
        misshapen = [
            f"{name}: {given[name].shape} given, {value.shape} expected"
            for name, value in own.items()
            if name in given and given[name].shape != value.shape
        ]
        problems = [("values of another shape", misshapen)]
        if strict:
            problems += [("missing", missing), ("unexpected", unexpected)]
        if any(found for _, found in problems):
            lines = [f"  {kind}: {', '.join(found)}" for kind, found in problems if found]
            raise RuntimeError(f"the state dict does not fit {type(self).__name__}:\n" + "\n".join(lines))
        for name, value in own.items():
            if name in given:
                value.array[...] = to_device(given[name].astype(value.dtype, copy=False), value.device)
        return IncompatibleKeys(missing, unexpected)

    # -- the rest --------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What to print between the brackets of a layer."""
        return ""

    def __repr__(self) -> str:
        lines = []
        for name, child in self.__dict__.items():
            if isinstance(child, Module):
                lines.append(f"  ({name}): " + repr(child).replace("\n", "\n  "))
        head = f"{type(self).__name__}({self.extra_repr()}"
        return head + ("\n" + "\n".join(lines) + "\n)" if lines else ")")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_last_call"}
