"""Recurrent layers: RNN, LSTM and GRU over sequences."""

from __future__ import annotations

import math
import warnings
from typing import Any

from dtrain.autograd import Tensor
from dtrain.nn import init
from dtrain.nn.module import Module
from dtrain.nn.parameter import Parameter
from dtrain.nn.utils.rnn import PackedSequence
from dtrain.ops.creation import empty, zeros
from dtrain.ops.dropout import dropout
from dtrain.ops.recurrent import gru_layer, lstm_layer, rnn_layer
from dtrain.ops.shape import cat, stack

__all__ = ["GRU", "LSTM", "RNN", "RNNBase"]

_GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}


class RNNBase(Module):
    """What RNN, LSTM and GRU share: the parameters of layers and directions, and the way through them.

    mode: "RNN_TANH", "RNN_RELU", "LSTM" or "GRU". Layer k has weight_ih_lk: (gates H, inputs), weight_hh_lk: (gates H,
    H), and with bias also bias_ih_lk and bias_hh_lk: (gates H,); with bidirectional also the same with `_reverse` at
    the end. All start uniform on [-1 / sqrt(H), 1 / sqrt(H)). H: hidden_size; the inputs of the layers after the first
    are the outputs of both directions. Raises ValueError for sizes below 1 and for dropout outside [0, 1], TypeError
    for sizes that are no int.
    """

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.mode, self.input_size, self.hidden_size, self.num_layers = mode, input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, dropout
        self.bidirectional, self.proj_size = bidirectional, proj_size
        self._check_options()
        rows, state, directions = _GATES[mode] * hidden_size, proj_size or hidden_size, 1 + bidirectional
        self._all_weights: list[list[str]] = []
        for layer in range(num_layers):
            inputs = state * directions if layer else input_size
            for suffix in ("", "_reverse")[:directions]:
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, inputs), "weight_hh": (rows, state)}
                if bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                if proj_size:
                    shapes["weight_hr"] = (proj_size, hidden_size)
                names = {f"{name}_l{layer}{suffix}": shape for name, shape in shapes.items()}
                for name, shape in names.items():
                    setattr(self, name, Parameter(empty(shape, device=device, dtype=dtype)))
                self._all_weights.append(list(names))
        self.reset_parameters()

    def _check_options(self) -> None:
        if self.mode not in _GATES:
            raise ValueError(f"mode must be one of {', '.join(_GATES)}, got {self.mode!r}")
        for name in ("input_size", "hidden_size", "num_layers"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, got {type(value).__name__}")
            if value <= 0:
                raise ValueError(f"{name} must be greater than 0, got {value}")
        for name in ("bias", "batch_first"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be a bool, got {type(getattr(self, name)).__name__}")
        if not 0 <= self.proj_size < self.hidden_size:
            raise ValueError(
                f"proj_size must be in 0 to hidden_size - 1 = {self.hidden_size - 1}, got {self.proj_size}"
            )
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, (int, float)) or not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout must be a number in [0, 1], got {self.dropout!r}")
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                f"dropout comes between layers: dropout={self.dropout} with num_layers=1 has no effect",
                stacklevel=4,
            )

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters, a list per layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def flatten_parameters(self) -> None:
        """Nothing: on the CPU parameters need not lie together."""

    def reset_parameters(self) -> None:
        """Draw the initial weights again."""
        bound = 1 / math.sqrt(self.hidden_size)
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002
        """input: (T, N, I), (N, T, I) with batch_first, (T, I) for one sequence, or a PackedSequence; hx: states.

        Returns (output, states). States are (layers * directions, N, H), without N for one sequence. Raises
        ValueError or RuntimeError for shapes and dtypes that do not fit.
        """
        packed = isinstance(input, PackedSequence)
        x = input.data if packed else input
        self._check_input(x, packed)
        batched = packed or x.ndim == 3
        if packed:
            sizes = tuple(input.batch_sizes.tolist())
        else:
            if not batched:
                x = x.unsqueeze(1)
            elif self.batch_first:
                x = x.transpose(0, 1)
            steps, batch = x.shape[:2]
            sizes = (batch,) * steps
            x = x.reshape(steps * batch, x.shape[2])
        states = self._states(x, hx, sizes[0], batched)
        if packed and hx is not None and input.sorted_indices is not None:
            states = [s[:, input.sorted_indices] for s in states]
        y, last = self._layers(x, states, sizes)
        if packed:
            if input.unsorted_indices is not None:
                last = [s[:, input.unsorted_indices] for s in last]
            return PackedSequence(y, *input[1:]), self._states_out(last)
        y = y.reshape(steps, batch, y.shape[1])
        if not batched:
            return y.squeeze(1), self._states_out([s.squeeze(1) for s in last])
        return (y.transpose(0, 1) if self.batch_first else y), self._states_out(last)

    def _check_input(self, x: Tensor, packed: bool) -> None:
        name = type(self).__name__
        if x.ndim not in ((2,) if packed else (2, 3)):
            wanted = "(total, I)" if packed else "(T, N, I) or (T, I)"
            raise ValueError(f"{name}: input must be {wanted}, got {x.ndim} dimensions: shape {x.shape}")
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"{name}: the last dimension of the input must be input_size = {self.input_size}, got shape {x.shape}"
            )
        weight = getattr(self, self._all_weights[0][0])
        if x.dtype != weight.dtype:
            raise ValueError(
                f"{name}: input is {x.dtype}, weights are {weight.dtype}; "
                f"convert with input.to({weight.dtype}) or model.to({x.dtype})"
            )
        steps = x.shape[1] if x.ndim == 3 and self.batch_first else x.shape[0]
        if not packed and not steps:
            raise RuntimeError(f"{name}: input of shape {x.shape} has no steps; at least one is needed")

    def _state_sizes(self) -> list[int]:
        """The sizes of the states that a step takes and returns."""
        return [self.hidden_size]

    def _states(self, x: Tensor, hx: Any, batch: int, batched: bool) -> list[Tensor]:
        """The initial states, (layers * directions, N, H) each, checked; zeros where none are given."""
        count = self.num_layers * (1 + self.bidirectional)
        sizes = self._state_sizes()
        if hx is None:
            return [zeros(count, batch, size, dtype=x.dtype, device=x.device) for size in sizes]
        given = list(hx) if isinstance(hx, (tuple, list)) else [hx]
        if len(given) != len(sizes):
            raise RuntimeError(f"{type(self).__name__}: expected {len(sizes)} initial states, got {len(given)}")
        for state, size in zip(given, sizes, strict=True):
            expected = (count, batch, size) if batched else (count, size)
            if state.shape != expected:
                raise RuntimeError(
                    f"{type(self).__name__}: expected an initial state of shape {expected}, got {state.shape}"
                )
        return given if batched else [s.unsqueeze(1) for s in given]

    def _states_out(self, states: list[Tensor]) -> Any:
        return states[0]

    def _layers(self, x: Tensor, states: list[Tensor], sizes: tuple[int, ...]) -> tuple[Tensor, list[Tensor]]:
        """All layers. x: (total, I), packed -> (total, directions * H), and the last states."""
        directions = 1 + self.bidirectional
        last: list[list[Tensor]] = [[] for _ in states]
        for layer in range(self.num_layers):
            if layer:
                x = dropout(x, self.dropout, self.training)
            outputs = []
            for k in range(layer * directions, (layer + 1) * directions):
                reverse = k > layer * directions
                y, *ends = self._one_layer(x, [s[k] for s in states], self._all_weights[k], sizes, reverse)
                outputs.append(y)
                for found, end in zip(last, ends, strict=True):
                    found.append(end)
            x = cat(outputs, 1) if self.bidirectional else outputs[0]
        return x, [stack(found) for found in last]

    def _one_layer(self, x: Tensor, states: list[Tensor], names: list[str], sizes: Any, reverse: bool) -> Any:
        """One layer in one direction: all states h, and the last states."""
        weights = {name.rsplit("_l", 1)[0]: getattr(self, name) for name in names}
        given = (x, *states, weights["weight_ih"], weights["weight_hh"], weights.get("bias_ih"), weights.get("bias_hh"))
        if self.mode == "LSTM":
            return lstm_layer(*given, weights.get("weight_hr"), sizes=sizes, reverse=reverse)
        if self.mode == "GRU":
            return gru_layer(*given, sizes=sizes, reverse=reverse)
        return rnn_layer(*given, sizes=sizes, reverse=reverse, nonlinearity=self.mode[4:].lower())

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        usual = {
            "proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0, "bidirectional": False,
        }  # fmt: skip
        return text + "".join(f", {k}={getattr(self, k)}" for k, v in usual.items() if getattr(self, k) != v)


class RNN(RNNBase):
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh), Elman's network (Cognitive Science, 1990).

    RNN(input_size, hidden_size, num_layers=1, nonlinearity="tanh", bias=True, batch_first=False, dropout=0.0,
    bidirectional=False); nonlinearity may be "relu". Weights: see RNNBase, with one gate. forward(input, h_0=None)
    -> output (T, N, directions * H) and h_n (layers * directions, N, H); see RNNBase.forward. dropout acts between
    layers, in training. Raises ValueError for another nonlinearity.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(
            f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, device=device, dtype=dtype,
        )  # fmt: skip
        self.nonlinearity = nonlinearity


class LSTM(RNNBase):
    """Long short-term memory (Hochreiter and Schmidhuber, Neural Computation 1997; Gers et al., 2000).

    i, f, o = sigmoid, g = tanh of W_ih x_t + b_ih + W_hh h_(t-1) + b_hh; c_t = f c_(t-1) + i g; h_t = o tanh(c_t).
    LSTM(input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False,
    proj_size=0). Weights: see RNNBase, with four gates in the order i, f, g, o. With proj_size P > 0, h_t is multiplied
    by weight_hr_lk: (P, H), and all states h are of size P (Sak et al., arXiv:1402.1128). forward(input, (h_0,
    c_0)=None) -> output (T, N, directions * P) and (h_n, c_n); see RNNBase.forward. Raises RuntimeError for
    another input size or initial state, ValueError for other dimensions and for sizes that make no sense.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size,
            device, dtype,
        )  # fmt: skip

    def _state_sizes(self) -> list[int]:
        return [self.proj_size or self.hidden_size, self.hidden_size]

    def _states_out(self, states: list[Tensor]) -> Any:
        return tuple(states)


class GRU(RNNBase):
    """Gated recurrent units (Cho et al., arXiv:1406.1078), the reset gate applied after the product.

    r, z = sigmoid(W_ih x_t + b_ih + W_hh h + b_hh); n = tanh(W_in x_t + b_in + r (W_hn h + b_hn)); h_t = (1 - z) n + z
    h, where h is h_(t-1). GRU(input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0,
    bidirectional=False). Weights: see RNNBase, with three gates in the order r, z, n. forward(input, h_0=None) ->
    output (T, N, directions * H) and h_n; see RNNBase.forward. Raises RuntimeError for another input size or initial
    state, ValueError for other dimensions and for sizes that make no sense.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            device=device, dtype=dtype,
        )  # fmt: skip
