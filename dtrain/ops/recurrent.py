"""Recurrent layers: one op per layer and direction, over whole sequences; nn.LSTM and its cells are made of them.

Sequences lie packed, as in `nn.utils.rnn.PackedSequence`: x is (total, I), the rows of step 0 first; `sizes[t]`
sequences have a step t, and the states are (sizes[0], H). Sequences of one length T have sizes (N,) * T.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dtrain.autograd import Joint, Tensor, op
from dtrain.backend import Array, backend_of
from dtrain.ops.activation import relu, sigmoid, tanh
from dtrain.ops.dtypes import same_dtype
from dtrain.ops.linear import linear
from dtrain.ops.shape import cat, chunk

__all__ = ["gru_layer", "lstm_layer", "rnn_layer"]


def _check(name: str, gates: int, x: Array, h: Array, w_ih: Array, w_hh: Array, *others: Array | None) -> None:
    """Raise where what a layer is given does not fit together."""
    size = w_hh.shape[0] // gates
    fit = x.ndim == h.ndim == 2 and x.shape[1] == w_ih.shape[1] and h.shape[1] == w_hh.shape[1]
    if not fit or w_ih.shape[0] != w_hh.shape[0]:
        raise ValueError(
            f"{name}: input {x.shape} and state {h.shape} do not fit weights {w_ih.shape} and {w_hh.shape}; expected "
            f"(total, {w_ih.shape[1]}) and (sequences, {w_hh.shape[1]}) for {gates} gates of size {size}"
        )
    same_dtype(name, x, h, w_ih, w_hh, *others)


def _pick(gradients: Sequence[Any], needs: Sequence[bool]) -> list[Any]:
    return [g if need else None for g, need in zip(gradients, needs, strict=False)]


def _walk(
    cell: Callable[..., tuple[Tensor, ...]], x: Tensor, states: tuple[Tensor, ...], sizes: Sequence[int], reverse: bool
) -> tuple[Tensor, ...]:
    """All states h, and the last states, of cell(x_t, *states) -> states taken over all steps."""
    at, steps = 0, []
    for n in sizes:
        steps.append((at, n))
        at += n
    made = []
    for at, n in reversed(steps) if reverse else steps:
        new = cell(x[at : at + n], *[s[:n] for s in states])
        made.append(new[0])
        states = tuple(cat([a, s[n:]]) if n < len(s) else a for a, s in zip(new, states, strict=True))
    return cat(made[::-1] if reverse else made), *states


@op
def rnn_layer(
    x: Any, h: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None,
    sizes: Sequence[int] = (), reverse: bool = False, nonlinearity: str = "tanh",
) -> Any:  # fmt: skip
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh), or relu of it. x: (total, I), h: (N, H) -> (total, H), (N, H)

    w_ih: (H, I), w_hh: (H, H), b_ih, b_hh: (H,) or None. Returns all states, and the last one of each sequence.
    Raises ValueError where the shapes do not fit, TypeError for several dtypes.
    """
    _check("rnn", 1, x, h, w_ih, w_hh, b_ih, b_hh)
    options: dict[str, Any] = {"relu": nonlinearity == "relu", "sizes": sizes, "reverse": reverse}
    kernels = backend_of(x)
    y, last, before = kernels.rnn(x, h, w_ih, w_hh, b_ih, b_hh, **options)

    def pullback(g: Any, needs: Sequence[bool]) -> list[Array | None]:
        made = kernels.rnn_grad(*g, x, y, before, w_ih, w_hh, **options, needs_input=needs[0])
        return _pick((*made, made[-1]), needs)

    return (y, last), Joint(pullback)


@rnn_layer.formula
def _(
    x: Any, h: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None,
    sizes: Sequence[int] = (), reverse: bool = False, nonlinearity: str = "tanh",
) -> Any:  # fmt: skip
    f = relu if nonlinearity == "relu" else tanh
    return _walk(lambda x, h: (f(linear(x, w_ih, b_ih) + linear(h, w_hh, b_hh)),), x, (h,), sizes, reverse)


@op
def lstm_layer(
    x: Any, h: Any, c: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None, w_hr: Any = None,
    sizes: Sequence[int] = (), reverse: bool = False,
) -> Any:  # fmt: skip
    """Long short-term memory. x: (total, I), h: (N, P), c: (N, H) -> (total, P), (N, P), (N, H)

    i, f, o = sigmoid, g = tanh of W_ih x_t + b_ih + W_hh h_(t-1) + b_hh; c_t = f c_(t-1) + i g; h_t = o tanh(c_t).
    w_ih: (4H, I) in the order i, f, g, o, w_hh: (4H, P), b_ih, b_hh: (4H,) or None. P is H; with w_hr: (P, H) the
    state is w_hr h_t (Sak et al., arXiv:1402.1128). Returns all states, and the last h and c of each sequence.
    Raises ValueError where the shapes do not fit, TypeError for several dtypes.
    """
    _check("lstm", 4, x, h, w_ih, w_hh, c, b_ih, b_hh, w_hr)
    options: dict[str, Any] = {"sizes": sizes, "reverse": reverse}
    kernels = backend_of(x)
    y, last, last_c, saved = kernels.lstm(x, h, c, w_ih, w_hh, b_ih, b_hh, w_hr, **options)

    def pullback(g: Any, needs: Sequence[bool]) -> list[Array | None]:
        made = kernels.lstm_grad(*g, x, saved, w_ih, w_hh, w_hr, **options, needs_input=needs[0])
        return _pick((*made[:-1], made[-2], made[-1]), needs)

    return (y, last, last_c), Joint(pullback)


@lstm_layer.formula
def _(
    x: Any, h: Any, c: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None, w_hr: Any = None,
    sizes: Sequence[int] = (), reverse: bool = False,
) -> Any:  # fmt: skip
    def cell(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        i, f, g, o = chunk(linear(x, w_ih, b_ih) + linear(h, w_hh, b_hh), 4, 1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        return (h if w_hr is None else linear(h, w_hr)), c

    return _walk(cell, x, (h, c), sizes, reverse)


@op
def gru_layer(
    x: Any, h: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None,
    sizes: Sequence[int] = (), reverse: bool = False,
) -> Any:  # fmt: skip
    """Gated recurrent units (Cho et al., arXiv:1406.1078). x: (total, I), h: (N, H) -> (total, H), (N, H)

    r, z = sigmoid(W_ih x_t + b_ih + W_hh h + b_hh); n = tanh(W_in x_t + b_in + r (W_hn h + b_hn)); h_t = n + z (h - n).
    w_ih: (3H, I) in the order r, z, n, w_hh: (3H, H), b_ih, b_hh: (3H,) or None. Returns all states, and the last one
    of each sequence. Raises ValueError where the shapes do not fit, TypeError for several dtypes.
    """
    _check("gru", 3, x, h, w_ih, w_hh, b_ih, b_hh)
    options: dict[str, Any] = {"sizes": sizes, "reverse": reverse}
    kernels = backend_of(x)
    y, last, saved = kernels.gru(x, h, w_ih, w_hh, b_ih, b_hh, **options)

    def pullback(g: Any, needs: Sequence[bool]) -> list[Array | None]:
        return _pick(kernels.gru_grad(*g, x, saved, w_ih, w_hh, **options, needs_input=needs[0]), needs)

    return (y, last), Joint(pullback)


@gru_layer.formula
def _(
    x: Any, h: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None,
    sizes: Sequence[int] = (), reverse: bool = False,
) -> Any:  # fmt: skip
    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        r, z, n = chunk(linear(x, w_ih, b_ih), 3, 1)
        hr, hz, hn = chunk(linear(h, w_hh, b_hh), 3, 1)
        n = tanh(n + sigmoid(r + hr) * hn)
        return (n + sigmoid(z + hz) * (h - n),)

    return _walk(cell, x, (h,), sizes, reverse)
