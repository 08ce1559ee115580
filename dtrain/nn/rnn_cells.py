"""Recurrent cells: one step of RNN, LSTM and GRU."""

from __future__ import annotations

import math
from typing import Any

from dtrain.autograd import Tensor
from dtrain.nn import init
from dtrain.nn.module import Module
from dtrain.nn.parameter import Parameter
from dtrain.ops.creation import empty, zeros
from dtrain.ops.recurrent import gru_layer, lstm_layer, rnn_layer

__all__ = ["GRUCell", "LSTMCell", "RNNCell", "RNNCellBase"]


class RNNCellBase(Module):
    """What the cells share: weight_ih: (chunks H, I), weight_hh: (chunks H, H), bias_ih, bias_hh: (chunks H,).

    All start uniform on [-1 / sqrt(H), 1 / sqrt(H)); bias=False leaves the biases out.
    Raises ValueError for an input or a state of another shape.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, num_chunks: int, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        rows = num_chunks * hidden_size
        self.weight_ih = Parameter(empty(rows, input_size, device=device, dtype=dtype))
        self.weight_hh = Parameter(empty(rows, hidden_size, device=device, dtype=dtype))
        self.bias_ih = Parameter(empty(rows, device=device, dtype=dtype)) if bias else None
        self.bias_hh = Parameter(empty(rows, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights again."""
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0.0
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)

    def _step(self, layer: Any, input: Tensor, states: list[Tensor | None], **options: Any) -> list[Tensor]:  # noqa: A002
        """The new states. input: (N, I) or (I,), states: (N, H) or (H,), zeros for None."""
        name = type(self).__name__
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise ValueError(f"{name}: input must be (N, {self.input_size}) or ({self.input_size},), got {input.shape}")
        expected = (*input.shape[:-1], self.hidden_size)
        given = [zeros(expected, dtype=input.dtype, device=input.device) if s is None else s for s in states]
        for s in given:
            if s.shape != expected:
                raise ValueError(
                    f"{name}: state of shape {s.shape} does not fit input {input.shape}; expected {expected}"
                )
        single = input.ndim == 1
        x, *given = [t.unsqueeze(0) for t in (input, *given)] if single else (input, *given)
        new = layer(x, *given, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, sizes=(len(x),), **options)[
            1:
        ]
        return [t.squeeze(0) for t in new] if single else list(new)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else f", bias={self.bias}")
        nonlinearity = getattr(self, "nonlinearity", "tanh")
        return text + (f", nonlinearity={nonlinearity}" if nonlinearity != "tanh" else "")


class RNNCell(RNNCellBase):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu of it.  x: (N, I) or (I,), h: (N, H) or (H,) -> (N, H) or (H,)

    RNNCell(input_size, hidden_size, bias=True, nonlinearity="tanh"); h is zeros where not given. Weights: see
    RNNCellBase, with one chunk. Raises ValueError for shapes that do not fit, RuntimeError for another nonlinearity.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # noqa: A002
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"RNNCell: nonlinearity must be 'tanh' or 'relu', got {self.nonlinearity!r}")
        return self._step(rnn_layer, input, [hx], nonlinearity=self.nonlinearity)[0]


class LSTMCell(RNNCellBase):
    """One step of LSTM: (h', c') of x and (h, c).  x: (N, I) or (I,), h, c, h', c': (N, H) or (H,)

    LSTMCell(input_size, hidden_size, bias=True); h and c are zeros where not given. Weights: see RNNCellBase, with
    four chunks in the order i, f, g, o. Formula: nn.LSTM. Raises ValueError for shapes that do not fit.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Tensor]:  # noqa: A002
        h, c = self._step(lstm_layer, input, [None, None] if hx is None else list(hx))
        return h, c


class GRUCell(RNNCellBase):
    """One step of GRU.  x: (N, I) or (I,), h: (N, H) or (H,) -> (N, H) or (H,)

    GRUCell(input_size, hidden_size, bias=True); h is zeros where not given. Weights: see RNNCellBase, with three
    chunks in the order r, z, n. Formula: nn.GRU. Raises ValueError for shapes that do not fit.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # noqa: A002
        return self._step(gru_layer, input, [hx])[0]
