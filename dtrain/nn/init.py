"""Initial values of parameters, in place, drawn from the run's seed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, no_grad
from dtrain.backend import to_device
from dtrain.backend.random import Purpose, next_stream
from dtrain.ops.special import ndtri

__all__ = [
    "calculate_gain",
    "constant_",
    "dirac_",
    "eye_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "sparse_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]


@no_grad()
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform on [a, b). generator, here and below: a NumPy generator in the place of the run's next stream."""
    return tensor.uniform_(a, b, generator=generator or next_stream(Purpose.INIT))


@no_grad()
def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Normal with the given mean and standard deviation."""
    return tensor.normal_(mean, std, generator=generator or next_stream(Purpose.INIT))


@no_grad()
def constant_(tensor: Tensor, val: float) -> Tensor:
    """All elements val."""
    return tensor.fill_(val)


def zeros_(tensor: Tensor) -> Tensor:
    """All elements 0."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """All elements 1."""
    return constant_(tensor, 1.0)


def fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (O, I, *kernel). Raises ValueError for fewer than two dimensions."""
    if tensor.ndim < 2:
        raise ValueError(f"fan in and fan out need a weight of at least 2 dimensions, got shape {tensor.shape}")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the variance through a nonlinearity: sqrt(2) for relu, 5 / 3 for tanh, ...

    param: the slope of leaky_relu, 0.01 by default. Raises ValueError for a nonlinearity whose factor is not known.
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    gains = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3}
    gains |= {f"conv{transposed}{n}d": 1.0 for transposed in ("", "_transpose") for n in (1, 2, 3)}
    gains |= {"relu": math.sqrt(2), "selu": 3 / 4}
    if nonlinearity not in gains:
        raise ValueError(f"no gain is known for {nonlinearity!r}; known are {', '.join((*gains, 'leaky_relu'))}")
    return gains[nonlinearity]


def _fan(tensor: Tensor, mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode must be 'fan_in' or 'fan_out', got {mode!r}")
    return max(1, fans(tensor)[mode == "fan_out"])  # a weight without inputs has no elements to draw


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Uniform on [-b, b), b = gain * sqrt(3 / fan) (He et al., arXiv:1502.01852)."""
    bound = calculate_gain(nonlinearity, a) * math.sqrt(3 / _fan(tensor, mode))
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Normal with standard deviation gain / sqrt(fan) (He et al., arXiv:1502.01852)."""
    return normal_(tensor, 0.0, calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode)), generator)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform on [-b, b), b = gain * sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, AISTATS 2010)."""
    bound = gain * math.sqrt(6 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Normal with standard deviation gain * sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio, AISTATS 2010)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(fans(tensor))), generator)


def _write(tensor: Tensor, values: np.ndarray) -> Tensor:
    """Write computed values, of the tensor's size, into it."""
    with no_grad():
        return tensor.copy_(Tensor(to_device(values.reshape(tensor.shape).astype(tensor.dtype), tensor.device)))


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Any = None
) -> Tensor:
    """Normal, but within [a, b]: values outside are drawn again. Raises ValueError unless a < b and std > 0.

    By the inverse of the distribution function: mean + std * quantile(uniform on [F(a), F(b)]).
    """
    if not (a < b and std > 0):
        raise ValueError(f"trunc_normal_ needs a < b and std > 0, got a {a}, b {b} and std {std}")
    generator = generator or next_stream(Purpose.INIT)
    low, high = (0.5 * math.erfc(-(x - mean) / (std * math.sqrt(2))) for x in (a, b))
    values = mean + std * ndtri(Tensor(generator.uniform(low, high, tensor.shape))).array
    return _write(tensor, np.clip(values, a, b))


def eye_(tensor: Tensor) -> Tensor:
    """Ones on the diagonal, else zeros. Raises ValueError unless the tensor is a matrix."""
    _need_matrix("eye_", tensor)
    return _write(tensor, np.eye(tensor.shape[0], tensor.shape[1]))


def _need_matrix(name: str, tensor: Tensor) -> None:
    if tensor.ndim != 2:
        raise ValueError(f"{name} needs a tensor of 2 dimensions, got shape {tensor.shape}")


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """The convolution that changes nothing: 1 in the middle of kernel (i, i) of each group, else 0.  (O, I, *kernel)

    Raises ValueError unless the weight has 3, 4 or 5 dimensions and O is a multiple of groups.
    """
    if tensor.ndim not in (3, 4, 5) or tensor.shape[0] % groups:
        raise ValueError(
            f"dirac_ needs a weight of 3, 4 or 5 dimensions with {groups} groups of output channels, got shape "
            f"{tensor.shape}"
        )
    values = np.zeros(tensor.shape)
    middle = tuple(n // 2 for n in tensor.shape[2:])
    of_group = tensor.shape[0] // groups
    for i in range(min(of_group, tensor.shape[1])):
        for g in range(groups):
            values[(g * of_group + i, i, *middle)] = 1
    return _write(tensor, values)


def orthogonal_(tensor: Tensor, gain: float = 1, generator: Any = None) -> Tensor:
    """gain times a random matrix (shape[0], the rest) whose rows or columns, the fewer, are orthonormal.

    The QR decomposition of a normal matrix, with signs that make it uniform (Saxe et al., arXiv:1312.6120). Raises
    ValueError for fewer than 2 dimensions.
    """
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_ needs a tensor of at least 2 dimensions, got shape {tensor.shape}")
    if not tensor.numel():
        return tensor
    rows, columns = tensor.shape[0], tensor.numel() // tensor.shape[0]
    normal = (generator or next_stream(Purpose.INIT)).standard_normal((rows, columns))
    q, r = np.linalg.qr(normal.T if rows < columns else normal)
    q = q * np.sign(np.diagonal(r))
    return _write(tensor, gain * (q.T if rows < columns else q))


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> Tensor:
    """Normal with standard deviation std, and in each column a share `sparsity` of zeros (Martens, ICML 2010).

    Raises ValueError unless the tensor is a matrix.
    """
    _need_matrix("sparse_", tensor)
    generator = generator or next_stream(Purpose.INIT)
    rows, columns = tensor.shape
    values = generator.normal(0, std, (rows, columns))
    zeros = np.argsort(generator.random((rows, columns)), 0, kind="stable")[: math.ceil(sparsity * rows)]
    values[zeros, np.arange(columns)] = 0
    return _write(tensor, values)
