"""Weight norm: the length and the direction of a weight as two parameters."""

from __future__ import annotations

from typing import Any

from dtrain.autograd import no_grad
from dtrain.nn.module import Module
from dtrain.nn.parameter import Parameter
from dtrain.nn.utils.norms import check_free, norm_except, weight_of

__all__ = ["WeightNorm", "remove_weight_norm", "weight_norm"]


class WeightNorm:
    """The forward pre-hook that makes the weight of its two parameters."""

    def __init__(self, name: str, dim: int | None) -> None:
        self.name, self.dim = name, -1 if dim is None else dim

    def compute_weight(self, module: Any) -> Any:
        """g * v / |v|"""
        return weight_of(getattr(module, self.name + "_g"), getattr(module, self.name + "_v"), self.dim)

    def __call__(self, module: Any, inputs: Any) -> None:
        setattr(module, self.name, self.compute_weight(module))


def weight_norm(module: Any, name: str = "weight", dim: int | None = 0) -> Any:
    """Train `name` as `name`_g, its norms over all dimensions but dim, and `name`_v, its direction; returns the module.

    The weight is g * v / |v| (Salimans and Kingma, arXiv:1602.07868), computed before every forward. dim None: one norm
    for all. Raises RuntimeError where there is a weight norm of that parameter already, or an optimizer or
    DistributedDataParallel has it.
    """
    if _key(module, name) is not None:
        raise RuntimeError(f"there is a weight norm of {name!r} in this {type(module).__name__} already")
    weight = module._parameters[name]
    check_free("weight_norm", weight, name, kept=False)
    hook = WeightNorm(name, dim)
    with no_grad():
        norms = norm_except(weight, hook.dim)
    delattr(module, name)
    module.register_parameter(name + "_g", Parameter(norms.detach()))
    module.register_parameter(name + "_v", Parameter(weight.detach()))
    hook(module, ())
    module.register_forward_pre_hook(hook)
    return module


def remove_weight_norm(module: Any, name: str = "weight") -> Any:
    """Make `name` one parameter again, with the value that it has; returns the module. Raises ValueError if it is."""
    key = _key(module, name)
    if key is None:
        raise ValueError(f"there is no weight norm of {name!r} in this {type(module).__name__}")
    hook = module._call_hooks["forward_pre"].pop(key)[0]
    with no_grad():
        weight = hook.compute_weight(module)
    for part in ("", "_g", "_v"):
        delattr(module, name + part)
    setattr(module, name, Parameter(weight.detach()))
    return module


def _key(module: Module, name: str) -> int | None:
    hooks = module._call_hooks["forward_pre"] if module._call_hooks else {}
    return next((k for k, (h, *_) in hooks.items() if isinstance(h, WeightNorm) and h.name == name), None)
