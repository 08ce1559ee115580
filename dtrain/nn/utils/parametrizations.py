"""Weight norm and spectral norm as parametrizations: PyTorch's `torch.nn.utils.parametrizations`."""

from __future__ import annotations

from typing import Any

from dtrain.autograd import Tensor
from dtrain.nn.module import Module
from dtrain.nn.utils.norms import as_matrix, divided, iterate, norm_except, start_vector, weight_of
from dtrain.nn.utils.parametrize import register_parametrization
from dtrain.nn.utils.spectral_norm import default_dim
from dtrain.ops.distances import normalize

__all__ = ["spectral_norm", "weight_norm"]


class _WeightNorm(Module):
    def __init__(self, dim: int | None) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return weight_of(weight_g, weight_v, self.dim)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The norms and the direction."""
        return norm_except(weight, self.dim), weight


class _SpectralNorm(Module):
    def __init__(self, weight: Tensor, n_power_iterations: int, dim: int, eps: float) -> None:
        super().__init__()
        if not -weight.ndim <= dim < weight.ndim:
            raise IndexError(f"spectral_norm: dim {dim} is out of range for a weight of shape {weight.shape}")
        if n_power_iterations <= 0:
            raise ValueError(f"n_power_iterations must be positive, got {n_power_iterations}")
        self.dim, self.n_power_iterations, self.eps = dim % weight.ndim, n_power_iterations, eps
        if weight.ndim > 1:
            matrix = as_matrix(weight.detach(), self.dim)
            self.register_buffer("_u", start_vector(weight, matrix.shape[0], eps))
            self.register_buffer("_v", start_vector(weight, matrix.shape[1], eps))
            iterate(matrix, self._u, self._v, 15, eps, u_first=True)

    _u: Tensor
    _v: Tensor

    def forward(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return normalize(weight, dim=0, eps=self.eps)
        matrix = as_matrix(weight, self.dim)
        if self.training:
            iterate(matrix, self._u, self._v, self.n_power_iterations, self.eps, u_first=True)
        return divided(weight, matrix, self._u, self._v)

    def right_inverse(self, value: Tensor) -> Tensor:
        """The value itself: nothing better is known."""
        return value


def weight_norm(module: Any, name: str = "weight", dim: int | None = 0) -> Any:
    """Make `name` g * v / |v| (Salimans and Kingma, arXiv:1602.07868); returns the module.

    g and v are `parametrizations.name.original0` and `.original1`; state dicts with `name`_g and `name`_v load, too.
    dim: the dimension over which no norm is taken; None: one norm for all.
    """
    register_parametrization(module, name, _WeightNorm(dim), unsafe=True)

    def rename(_: Any, state: Any, prefix: str, *others: Any) -> None:
        old = [f"{prefix}{name}_{part}" for part in "gv"]
        if all(key in state for key in old):
            for i, key in enumerate(old):
                state[f"{prefix}parametrizations.{name}.original{i}"] = state.pop(key)

    module.register_load_state_dict_pre_hook(rename)
    return module


def spectral_norm(
    module: Any, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Any:
    """Divide `name` by its largest singular value (Miyato et al., arXiv:1802.05957); returns the module.

    Its singular vectors are buffers, which every use in training improves by steps of the power method. dim: the
    dimension of the outputs. Raises ValueError where the module has no tensor of that name.
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"{type(module).__name__} has no parameter or buffer {name!r}")
    made = _SpectralNorm(weight, n_power_iterations, default_dim(module) if dim is None else dim, eps)
    return register_parametrization(module, name, made)
