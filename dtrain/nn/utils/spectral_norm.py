"""Spectral norm: a weight divided by its largest singular value."""

from __future__ import annotations

from typing import Any

from dtrain.autograd import no_grad
from dtrain.nn.conv import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from dtrain.nn.module import Module
from dtrain.nn.parameter import Parameter
from dtrain.nn.utils.norms import as_matrix, check_free, divided, iterate, start_vector

__all__ = ["SpectralNorm", "default_dim", "remove_spectral_norm", "spectral_norm"]


class SpectralNorm:
    """The forward pre-hook that makes the weight of the trained one."""

    def __init__(self, name: str, n_power_iterations: int, dim: int, eps: float) -> None:
        if n_power_iterations <= 0:
            raise ValueError(f"n_power_iterations must be positive, got {n_power_iterations}")
        self.name, self.n_power_iterations, self.dim, self.eps = name, n_power_iterations, dim, eps

    def compute_weight(self, module: Any, do_power_iteration: bool) -> Any:
        """weight / sigma, after one or more steps of the power method."""
        weight, u, v = (getattr(module, self.name + part) for part in ("_orig", "_u", "_v"))
        matrix = as_matrix(weight, self.dim)
        if do_power_iteration:
            iterate(matrix, u, v, self.n_power_iterations, self.eps, u_first=False)
        return divided(weight, matrix, u, v)

    def __call__(self, module: Any, inputs: Any) -> None:
        setattr(module, self.name, self.compute_weight(module, module.training))


def default_dim(module: Module) -> int:
    """The dimension of a module's weight that counts its outputs."""
    return 1 if isinstance(module, (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)) else 0


def spectral_norm(
    module: Any, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Any:
    """Divide `name` by its largest singular value before every forward (Miyato et al., arXiv:1802.05957).

    `name`_orig is trained; `name`_u and `name`_v, buffers, are the singular vectors, which every forward in training
    improves by steps of the power method. dim: the dimension of the outputs. Returns the module. Raises RuntimeError
    where there is a spectral norm of that parameter already, or DistributedDataParallel has it.
    """
    if _key(module, name) is not None:
        raise RuntimeError(f"there is a spectral norm of {name!r} in this {type(module).__name__} already")
    weight = module._parameters[name]
    check_free("spectral_norm", weight, name, kept=True)
    hook = SpectralNorm(name, n_power_iterations, default_dim(module) if dim is None else dim, eps)
    rows, columns = as_matrix(weight.detach(), hook.dim).shape
    delattr(module, name)
    module.register_parameter(name + "_orig", weight)
    setattr(module, name, weight.detach())
    module.register_buffer(name + "_u", start_vector(weight, rows, eps))
    module.register_buffer(name + "_v", start_vector(weight, columns, eps))
    module.register_forward_pre_hook(hook)
    return module


def remove_spectral_norm(module: Any, name: str = "weight") -> Any:
    """Make `name` a parameter with the value that it has; returns the module. Raises ValueError where it is one."""
    key = _key(module, name)
    if key is None:
        raise ValueError(f"there is no spectral norm of {name!r} in this {type(module).__name__}")
    hook = module._call_hooks["forward_pre"].pop(key)[0]
    with no_grad():
        weight = hook.compute_weight(module, do_power_iteration=False)
    for part in ("", "_u", "_v", "_orig"):
        delattr(module, name + part)
    setattr(module, name, Parameter(weight.detach()))
    return module


def _key(module: Module, name: str) -> int | None:
    hooks = module._call_hooks["forward_pre"] if module._call_hooks else {}
    return next((k for k, (h, *_) in hooks.items() if isinstance(h, SpectralNorm) and h.name == name), None)
