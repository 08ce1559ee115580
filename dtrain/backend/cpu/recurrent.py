"""Recurrent layers by oneDNN's primitives where all sequences have one length, else with its products of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.backend.cpu.onednn import (
    BACKWARD,
    FORWARD,
    Arg,
    Context,
    Descriptor,
    Primitive,
    address,
    any_layout,
    context,
    moved,
    new,
    query,
    strided,
)  # fmt: skip
from dtrain.backend.cpu.product import dot
from dtrain.backend.reference import recurrent as reference

__all__ = ["Saved", "gru", "gru_grad", "lstm", "lstm_grad", "rnn", "rnn_grad"]

_ARGUMENT = 255  # the query for what an argument looks like
_FORWARDS, _BACKWARDS = 1, 2  # directions in time
_TANH, _RELU = 0x21, 0x20
#: The name of the primitive, how many states a step hands on, and how many gates and biases there are.
_KINDS = {"lstm": ("lstm", 2, 4, 4), "gru": ("lbr_gru", 1, 3, 4), "tanh": ("vanilla_rnn", 1, 1, 1)}
_KINDS["relu"] = _KINDS["tanh"]
#: The places of the states before and after, and of their gradients.
_STATES = (
    (Arg.SRC_ITER, Arg.SRC_ITER_C), (Arg.DST_ITER, Arg.DST_ITER_C),
    (Arg.DIFF_SRC_ITER, Arg.DIFF_SRC_ITER_C), (Arg.DIFF_DST_ITER, Arg.DIFF_DST_ITER_C),
)  # fmt: skip


class _Layer:
    """Both primitives for sequences of one length, and how weights get into their layouts and gradients out of them."""

    def __init__(
        self, context: Context, kind: str, dtype: np.dtype, steps: int, n: int, inputs: int, size: int, reverse: bool
    ) -> None:
        lib, engine, options = context.lib, context.engine, context.attributes
        name, states, gates, biases = _KINDS[kind]
        x, y, state = (strided(shape, dtype) for shape in ((steps, n, inputs), (steps, n, size), (1, 1, n, size)))
        shapes = [(1, 1, columns, gates, size) for columns in (inputs, size)]
        plain = [strided(shape, dtype, (0, 1, 3, 4, 2)) for shape in shapes]  # (gates * size, I), as PyTorch keeps them
        best, bias = [any_layout(shape, dtype) for shape in shapes], strided((1, 1, biases, size), dtype)
        of_weights = [*best, None, None] if kind == "lstm" else best  # no peepholes, no projection
        given = [x, *[state] * states, *of_weights, bias, y, *[state] * states]
        pointers = [d and d.pointer for d in given]
        first = [_BACKWARDS if reverse else _FORWARDS]
        last: list[Any] = [0]  # flags
        if name == "vanilla_rnn":
            first.insert(0, _TANH if kind == "tanh" else _RELU)
            last += [0.0, 0.0]
        create = [getattr(lib, f"{name}_{way}_primitive_desc_create") for way in ("forward", "backward")]
        forward = new(create[0], engine, FORWARD, *first, *pointers, *last, options)
        try:
            backward = new(create[1], engine, BACKWARD, *first, *pointers, *pointers, *last, forward, options)
        except Exception:
            lib.primitive_desc_destroy(forward)
            raise

        def found(pd: int, *places: int) -> list[Descriptor]:
            return [query(context, pd, _ARGUMENT, place) for place in places]

        weights = [found(pd, Arg.WEIGHTS, Arg.WEIGHTS_ITER) for pd in (forward, backward)]
        slopes = found(backward, Arg.DIFF_WEIGHTS, Arg.DIFF_WEIGHTS_ITER)
        (workspace,) = found(forward, Arg.WORKSPACE)
        self.workspace, self.weights = workspace.bytes, [[d.bytes for d in pair] for pair in weights]
        self.slopes = [d.bytes for d in slopes]
        self.inwards = [[moved(context, a, b) for a, b in zip(plain, pair, strict=True)] for pair in weights]
        self.outwards = [moved(context, a, b) for a, b in zip(slopes, plain, strict=True)]
        src, dst, diff_src, diff_dst = ([(place, state) for place in places[:states]] for places in _STATES)
        inputs_of = [(Arg.SRC, x), *src]
        outputs = [(Arg.DST, y), *dst, (Arg.WORKSPACE, workspace)]
        places = [[(Arg.WEIGHTS, a), (Arg.WEIGHTS_ITER, b), (Arg.BIAS, bias)] for a, b in weights]
        # It calls its code for products and gates "ref", too.
        self.forward = Primitive(context, forward, [*inputs_of, *places[0], *outputs], slow=True)
        self.backward = Primitive(context, backward, [
            *inputs_of, *places[1], *outputs, (Arg.DIFF_DST, y), *diff_dst, (Arg.DIFF_SRC, x), *diff_src,
            (Arg.DIFF_WEIGHTS, slopes[0]), (Arg.DIFF_WEIGHTS_ITER, slopes[1]), (Arg.DIFF_BIAS, bias),
        ], slow=True)  # fmt: skip


class Saved:
    """What the gradient needs: the layer, its inputs, weights, biases and outputs, and the primitive's notes."""

    def __init__(self, key: tuple[Any, ...], *arrays: Any) -> None:
        self.key, self.arrays = key, arrays


def _fits(x: np.ndarray, state: np.ndarray, sizes: Sequence[int]) -> bool:
    """Whether a primitive can have these: float32, and all sequences of one length."""
    return x.dtype == np.float32 and x.size * state.size > 0 and all(n == sizes[0] for n in sizes)


def _forward(
    kind: str, x: np.ndarray, states: Sequence[np.ndarray], weights: Sequence[np.ndarray], bias: np.ndarray,
    sizes: Sequence[int], reverse: bool,
) -> tuple[list[np.ndarray], Saved] | None:  # fmt: skip
    """All outputs and last states, and what the gradient needs; None where the reference has to do it.

    weights, bias: with the gates in the primitive's order.
    """
    if not _fits(x, states[-1], sizes) or states[0].shape != states[-1].shape:
        return None
    n, size = states[0].shape
    c, key = context(), (kind, x.dtype, len(sizes), n, x.shape[1], size, reverse)
    layer = c.kept(_Layer, *key)
    if not layer:
        return None
    weights = [np.ascontiguousarray(w) for w in weights]
    inputs = [np.ascontiguousarray(a) for a in (x, *states)]
    outputs = [np.empty((len(x), size), x.dtype), *(np.empty_like(s) for s in inputs[1:])]
    workspace = np.empty(layer.workspace, np.uint8)
    laid = _laid(c, layer.inwards[0], weights, layer.weights[0])
    arrays = (*inputs, *laid, bias, *outputs, workspace)
    layer.forward(*map(address, arrays), *c.scratch(layer.forward.scratchpad))
    return outputs, Saved(key, inputs, weights, bias, outputs, workspace)


def _backward(saved: Saved, *gradients: np.ndarray | None) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """The gradients of x and the states, of both weights, and of the biases. gradients: of the outputs."""
    inputs, weights, bias, outputs, workspace = saved.arrays
    c = context()
    layer = c.kept(_Layer, *saved.key)
    laid = _laid(c, layer.inwards[1], weights, layer.weights[1])
    given = [
        np.zeros_like(y) if g is None else np.ascontiguousarray(g) for g, y in zip(gradients, outputs, strict=True)
    ]
    slopes = [np.empty_like(a) for a in inputs]
    rooms, g_bias = [np.zeros(n, np.uint8) for n in layer.slopes], np.zeros_like(bias)  # to which gradients are added
    arrays = (*inputs, *laid, bias, *outputs, workspace, *given, *slopes, *rooms, g_bias)
    layer.backward(*map(address, arrays), *c.scratch(layer.backward.scratchpad))
    g_weights = [np.empty_like(w) for w in weights]
    for reorder, room, g in zip(layer.outwards, rooms, g_weights, strict=True):
        reorder(address(room), address(g), *c.scratch(reorder.scratchpad))
    return slopes, g_weights, g_bias


def _laid(
    c: Context, reorders: Sequence[Primitive], weights: Sequence[np.ndarray], sizes: Sequence[int]
) -> list[np.ndarray]:
    """The weights in the layouts of a primitive."""
    rooms = [np.empty(n, np.uint8) for n in sizes]
    for reorder, weight, room in zip(reorders, weights, rooms, strict=True):
        reorder(address(weight), address(room), *c.scratch(reorder.scratchpad))
    return rooms


def _sum(like: np.ndarray, *biases: np.ndarray | None) -> np.ndarray:
    """The sum of the biases that there are, as many numbers as `like` has rows."""
    total = np.zeros(len(like), like.dtype)
    for b in biases:
        if b is not None:
            total += b
    return total


# -- LSTM --------------------------------------------------------------------------------------------


def lstm(
    x: np.ndarray, h0: np.ndarray, c0: np.ndarray, w_ih: np.ndarray, w_hh: np.ndarray, b_ih: np.ndarray | None,
    b_hh: np.ndarray | None, w_hr: np.ndarray | None, *, sizes: Sequence[int], reverse: bool,
    dot: reference.Dot = dot,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:  # fmt: skip
    """As `reference.lstm`."""
    made = None
    if w_hr is None:
        made = _forward("lstm", x, (h0, c0), (w_ih, w_hh), _sum(w_ih, b_ih, b_hh), sizes, reverse)
    if made is not None:
        return *made[0], made[1]  # type: ignore[return-value]
    return reference.lstm(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, sizes=sizes, reverse=reverse, dot=dot)


def lstm_grad(
    g_y: np.ndarray | None, g_h: np.ndarray | None, g_c: np.ndarray | None, x: np.ndarray, saved: Any,
    w_ih: np.ndarray, w_hh: np.ndarray, w_hr: np.ndarray | None, *, sizes: Sequence[int], reverse: bool,
    needs_input: bool, dot: reference.Dot = dot,
) -> tuple[Any, ...]:  # fmt: skip
    """As `reference.lstm_grad`."""
    if not isinstance(saved, Saved):
        options: dict[str, Any] = {"sizes": sizes, "reverse": reverse, "needs_input": needs_input, "dot": dot}
        return reference.lstm_grad(g_y, g_h, g_c, x, saved, w_ih, w_hh, w_hr, **options)
    slopes, g_weights, g_bias = _backward(saved, g_y, g_h, g_c)
    return slopes[0] if needs_input else None, slopes[1], slopes[2], *g_weights, g_bias, None


# -- GRU ---------------------------------------------------------------------------------------------


def _turned(rows: np.ndarray) -> np.ndarray:
    """Rows by gate, in PyTorch's order r, z, n, in oneDNN's, z, r, n; and the other way round."""
    size = len(rows) // 3
    return np.concatenate([rows[size : 2 * size], rows[:size], rows[2 * size :]])


def gru(
    x: np.ndarray, h0: np.ndarray, w_ih: np.ndarray, w_hh: np.ndarray, b_ih: np.ndarray | None,
    b_hh: np.ndarray | None, *, sizes: Sequence[int], reverse: bool, dot: reference.Dot = dot,
) -> tuple[np.ndarray, np.ndarray, Any]:  # fmt: skip
    """As `reference.gru`."""
    if _fits(x, h0, sizes):
        two = 2 * h0.shape[1]
        bias = _sum(w_ih, b_ih)
        inner = _sum(w_hh, b_hh)  # of which that of n stays within the product with r
        bias[:two] += inner[:two]
        weights = _turned(w_ih), _turned(w_hh)
        if made := _forward("gru", x, (h0,), weights, np.concatenate([_turned(bias), inner[two:]]), sizes, reverse):
            return *made[0], made[1]  # type: ignore[return-value]
    return reference.gru(x, h0, w_ih, w_hh, b_ih, b_hh, sizes=sizes, reverse=reverse, dot=dot)


def gru_grad(
    g_y: np.ndarray | None, g_h: np.ndarray | None, x: np.ndarray, saved: Any, w_ih: np.ndarray, w_hh: np.ndarray, *,
    sizes: Sequence[int], reverse: bool, needs_input: bool, dot: reference.Dot = dot,
) -> tuple[Any, ...]:  # fmt: skip
    """As `reference.gru_grad`."""
    if not isinstance(saved, Saved):
        options: dict[str, Any] = {"sizes": sizes, "reverse": reverse, "needs_input": needs_input, "dot": dot}
        return reference.gru_grad(g_y, g_h, x, saved, w_ih, w_hh, **options)
    slopes, g_weights, g_bias = _backward(saved, g_y, g_h)
    outer, inner = _turned(g_bias[: len(w_ih)]), g_bias[len(w_ih) :]
    g_b_hh = np.concatenate([outer[: 2 * len(inner)], inner])
    return slopes[0] if needs_input else None, slopes[1], *map(_turned, g_weights), outer, g_b_hh


# -- tanh or relu ------------------------------------------------------------------------------------


def rnn(
    x: np.ndarray, h0: np.ndarray, w_ih: np.ndarray, w_hh: np.ndarray, b_ih: np.ndarray | None,
    b_hh: np.ndarray | None, *, relu: bool, sizes: Sequence[int], reverse: bool, dot: reference.Dot = dot,
) -> tuple[np.ndarray, np.ndarray, Any]:  # fmt: skip
    """As `reference.rnn`."""
    made = _forward("relu" if relu else "tanh", x, (h0,), (w_ih, w_hh), _sum(w_ih, b_ih, b_hh), sizes, reverse)
    if made is not None:
        return *made[0], made[1]  # type: ignore[return-value]
    return reference.rnn(x, h0, w_ih, w_hh, b_ih, b_hh, relu=relu, sizes=sizes, reverse=reverse, dot=dot)


def rnn_grad(
    g_y: np.ndarray | None, g_h: np.ndarray | None, x: np.ndarray, y: np.ndarray, before: Any,
    w_ih: np.ndarray, w_hh: np.ndarray, *, relu: bool, sizes: Sequence[int], reverse: bool, needs_input: bool,
    dot: reference.Dot = dot,
) -> tuple[Any, ...]:  # fmt: skip
    """As `reference.rnn_grad`."""
    if not isinstance(before, Saved):
        options: dict[str, Any] = {"sizes": sizes, "reverse": reverse, "needs_input": needs_input, "dot": dot}
        return reference.rnn_grad(g_y, g_h, x, y, before, w_ih, w_hh, relu=relu, **options)
    slopes, g_weights, g_bias = _backward(before, g_y, g_h)
    return slopes[0] if needs_input else None, slopes[1], *g_weights, g_bias
