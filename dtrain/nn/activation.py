"""Activation functions as layers. `inplace` is accepted by all that have it in PyTorch, and changes nothing."""

from __future__ import annotations

from dtrain.autograd import Tensor
from dtrain.nn.init import constant_
from dtrain.nn.module import Module
from dtrain.nn.parameter import Parameter
from dtrain.ops.activation import (
    celu,
    elu,
    gelu,
    glu,
    logsigmoid,
    mish,
    relu,
    selu,
    sigmoid,
    silu,
    softplus,
    softsign,
    tanh,
    tanhshrink,
)  # fmt: skip
from dtrain.ops.creation import empty
from dtrain.ops.piecewise import (
    hardshrink,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    prelu,
    relu6,
    rrelu,
    softshrink,
    threshold,
)  # fmt: skip

__all__ = [
    "CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid",
    "Mish", "PReLU", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign",
    "Tanh", "Tanhshrink", "Threshold",
]  # fmt: skip


class CELU(Module):
    """x where x > 0, else alpha (exp(x / alpha) - 1) (Barron, arXiv:1704.07483).  (*) -> the same

    Raises ValueError for alpha 0, TypeError for integers.
    """

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha = alpha
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return celu(input, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha!r}"


class ELU(Module):
    """x where x > 0, else alpha (exp(x) - 1) (Clevert et al., arXiv:1511.07289).  (*) -> the same

    Raises TypeError for integers.
    """

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha = alpha
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return elu(input, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha!r}"


class GELU(Module):
    """x * Phi(x), Phi the normal distribution function; approximate="tanh" for its usual approximation.

    (*) -> the same. Raises ValueError for another approximate, TypeError for integers.
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        return gelu(input, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class GLU(Module):
    """a / (1 + exp(-b)), a and b the halves of the input along dim (Dauphin et al., arXiv:1612.08083).

    With 2 n elements along dim -> n. Raises ValueError where their number is odd, IndexError for no such dim.
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return glu(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim!r}"


class Hardshrink(Module):
    """x where |x| > lambd, else 0.  (*) -> the same. Raises nothing of its own."""

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def forward(self, input: Tensor) -> Tensor:
        return hardshrink(input, self.lambd)

    def extra_repr(self) -> str:
        return f"{self.lambd!r}"


class Hardsigmoid(Module):
    """min(max(x + 3, 0), 6) / 6, elementwise.  (*) -> the same. Raises nothing of its own."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return hardsigmoid(input)


class Hardswish(Module):
    """x min(max(x + 3, 0), 6) / 6 (Howard et al., arXiv:1905.02244).  (*) -> the same

    Raises TypeError for integers.
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return hardswish(input)


class Hardtanh(Module):
    """x limited to [min_val, max_val].  (*) -> the same. Raises ValueError where min_val is larger than max_val."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.min_val = min_val
        self.max_val = max_val
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return hardtanh(input, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val!r}, max_val={self.max_val!r}"


class LeakyReLU(Module):
    """x where x > 0, else negative_slope * x (Maas et al., ICML 2013).  (*) -> the same. Raises nothing of its own."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return leaky_relu(input, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope!r}"


class LogSigmoid(Module):
    """log(1 / (1 + exp(-x))), elementwise.  (*) -> the same. Raises TypeError for integers."""

    def forward(self, input: Tensor) -> Tensor:
        return logsigmoid(input)


class Mish(Module):
    """x tanh(log(1 + exp(x))) (Misra, arXiv:1908.08681).  (*) -> the same. Raises TypeError for integers."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return mish(input)


class RReLU(Module):
    """x where x > 0, else a x; a is drawn from [lower, upper) in training, else their mean (arXiv:1505.00853).

    (*) -> the same. Raises ValueError where lower is larger than upper.
    """

    def __init__(self, lower: float = 1 / 8, upper: float = 1 / 3, inplace: bool = False) -> None:
        super().__init__()
        self.lower = lower
        self.upper = upper
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return rrelu(input, self.lower, self.upper, self.training)

    def extra_repr(self) -> str:
        return f"lower={self.lower!r}, upper={self.upper!r}"


class ReLU(Module):
    """max(x, 0), elementwise. `inplace` is accepted for PyTorch's sake.  (*) -> the same. Raises nothing of its own."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return relu(input)


class ReLU6(Module):
    """min(max(x, 0), 6), elementwise (Howard et al., arXiv:1704.04861).  (*) -> the same. Raises nothing of its own."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return relu6(input)


class SELU(Module):
    """1.0507 x where x > 0, else 1.0507 * 1.6733 (exp(x) - 1) (Klambauer et al., arXiv:1706.02515).  (*) -> the same

    Raises TypeError for integers.
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return selu(input)


class SiLU(Module):
    """x / (1 + exp(-x)), also called swish (Hendrycks and Gimpel, arXiv:1606.08415).  (*) -> the same

    Raises TypeError for integers.
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return silu(input)


class Sigmoid(Module):
    """1 / (1 + exp(-x)), elementwise.  (*) -> the same. Raises nothing of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return sigmoid(input)


class Softplus(Module):
    """log(1 + exp(beta x)) / beta, x itself where beta x > threshold (Dugas et al., NIPS 2000).  (*) -> the same

    Raises TypeError for integers.
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def forward(self, input: Tensor) -> Tensor:
        return softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta!r}, threshold={self.threshold!r}"


class Softshrink(Module):
    """x moved towards 0 by lambd, 0 where |x| <= lambd.  (*) -> the same. Raises ValueError for lambd < 0."""

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def forward(self, input: Tensor) -> Tensor:
        return softshrink(input, self.lambd)

    def extra_repr(self) -> str:
        return f"{self.lambd!r}"


class Softsign(Module):
    """x / (1 + |x|), elementwise.  (*) -> the same. Raises nothing of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return softsign(input)


class Tanh(Module):
    """The hyperbolic tangent, elementwise.  (*) -> the same. Raises nothing of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return tanh(input)


class Tanhshrink(Module):
    """x - tanh(x), elementwise.  (*) -> the same. Raises nothing of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return tanhshrink(input)


class Threshold(Module):
    """x where x > threshold, else value.  (*) -> the same. Raises nothing of its own."""

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__()
        self.threshold = threshold
        self.value = value
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return threshold(input, self.threshold, self.value)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold!r}, value={self.value!r}"


class PReLU(Module):
    """x where x > 0, else weight * x (He et al., arXiv:1502.01852).  (N, C, *) -> the same

    weight (num_parameters,), learned, begins at init: one for all channels, or one for each. Raises ValueError where
    the input has another number of channels.
    """

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, device: object = None, dtype: object = None
    ) -> None:
        super().__init__()
        self.num_parameters, self.init = num_parameters, init
        self.weight = Parameter(empty(num_parameters, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to its initial value."""
        constant_(self.weight, self.init)

    def forward(self, input: Tensor) -> Tensor:
        return prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"
