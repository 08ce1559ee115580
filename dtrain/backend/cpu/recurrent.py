"""Recurrent layers: LSTM by oneDNN's primitive where it can, the others with oneDNN's products of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
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

__all__ = ["gru", "gru_grad", "lstm", "lstm_grad", "rnn", "rnn_grad"]

gru, gru_grad = partial(reference.gru, dot=dot), partial(reference.gru_grad, dot=dot)
rnn, rnn_grad = partial(reference.rnn, dot=dot), partial(reference.rnn_grad, dot=dot)

_ARGUMENT = 255  # the query for what an argument looks like
_FORWARDS, _BACKWARDS = 1, 2  # directions in time


class _LSTM:
    """Both primitives for sequences of one length, and how weights get into their layouts and gradients out of them."""

    def __init__(self, context: Context, dtype: np.dtype, steps: int, n: int, inputs: int, size: int, reverse: bool):
        lib, engine, options = context.lib, context.engine, context.attributes
        x, y, state = (strided(shape, dtype) for shape in ((steps, n, inputs), (steps, n, size), (1, 1, n, size)))
        shapes = [(1, 1, columns, 4, size) for columns in (inputs, size)]
        plain = [strided(shape, dtype, (0, 1, 3, 4, 2)) for shape in shapes]  # (4H, I), as PyTorch keeps them
        best, bias = [any_layout(shape, dtype) for shape in shapes], strided((1, 1, 4, size), dtype)
        direction = _BACKWARDS if reverse else _FORWARDS
        given = [x, state, state, *best, None, None, bias, y, state, state]
        pointers = [d and d.pointer for d in given]
        forward = new(lib.lstm_forward_primitive_desc_create, engine, FORWARD, direction, *pointers, 0, options)
        backward = new(
            lib.lstm_backward_primitive_desc_create,
            engine, BACKWARD, direction, *pointers, *pointers, 0, forward, options,
        )  # fmt: skip

        def found(pd: int, *places: int) -> list[Descriptor]:
            return [query(context, pd, _ARGUMENT, place) for place in places]

        weights = [found(pd, Arg.WEIGHTS, Arg.WEIGHTS_ITER) for pd in (forward, backward)]
        slopes = found(backward, Arg.DIFF_WEIGHTS, Arg.DIFF_WEIGHTS_ITER)
        (workspace,) = found(forward, Arg.WORKSPACE)
        self.workspace, self.weights = workspace.bytes, [[d.bytes for d in pair] for pair in weights]
        self.slopes = [d.bytes for d in slopes]
        self.inwards = [[moved(context, a, b) for a, b in zip(plain, pair, strict=True)] for pair in weights]
        self.outwards = [moved(context, a, b) for a, b in zip(slopes, plain, strict=True)]
        inputs_of = [(Arg.SRC, x), (Arg.SRC_ITER, state), (Arg.SRC_ITER_C, state)]
        outputs = [(Arg.DST, y), (Arg.DST_ITER, state), (Arg.DST_ITER_C, state), (Arg.WORKSPACE, workspace)]
        places = [[(Arg.WEIGHTS, a), (Arg.WEIGHTS_ITER, b), (Arg.BIAS, bias)] for a, b in weights]
        # It calls its code for products and gates "ref", too.
        self.forward = Primitive(context, forward, [*inputs_of, *places[0], *outputs], slow=True)
        self.backward = Primitive(context, backward, [
            *inputs_of, *places[1], *outputs,
            (Arg.DIFF_DST, y), (Arg.DIFF_DST_ITER, state), (Arg.DIFF_DST_ITER_C, state),
            (Arg.DIFF_SRC, x), (Arg.DIFF_SRC_ITER, state), (Arg.DIFF_SRC_ITER_C, state),
            (Arg.DIFF_WEIGHTS, slopes[0]), (Arg.DIFF_WEIGHTS_ITER, slopes[1]), (Arg.DIFF_BIAS, bias),
        ], slow=True)  # fmt: skip


def _found(
    x: np.ndarray, state: np.ndarray, cell: np.ndarray, sizes: Sequence[int], reverse: bool
) -> tuple[Context, _LSTM] | None:
    """The thread's context and what it keeps for sequences of one length; None where the reference has to do it."""
    n = sizes[0]
    if x.dtype != np.float32 or state.shape != cell.shape or not x.size or not cell.size or any(s != n for s in sizes):
        return None
    c = context()
    made = c.kept(_LSTM, x.dtype, len(sizes), n, x.shape[1], cell.shape[1], reverse)
    return made and (c, made)


def _laid(
    c: Context, reorders: Sequence[Primitive], weights: Sequence[np.ndarray], sizes: Sequence[int]
) -> list[np.ndarray]:
    """The weights in the layouts of a primitive."""
    rooms = [np.empty(n, np.uint8) for n in sizes]
    for reorder, weight, room in zip(reorders, weights, rooms, strict=True):
        reorder(address(np.ascontiguousarray(weight)), address(room), *c.scratch(reorder.scratchpad))
    return rooms


def lstm(
    x: np.ndarray, h0: np.ndarray, c0: np.ndarray, w_ih: np.ndarray, w_hh: np.ndarray, b_ih: np.ndarray | None,
    b_hh: np.ndarray | None, w_hr: np.ndarray | None, *, sizes: Sequence[int], reverse: bool,
    dot: reference.Dot = dot,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[Any, ...]]:  # fmt: skip
    """As `reference.lstm`; for the gradient it keeps what that does, or the primitive's inputs, outputs and notes."""
    found = _found(x, h0, c0, sizes, reverse) if w_hr is None else None
    if found is None:
        return reference.lstm(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, sizes=sizes, reverse=reverse, dot=dot)
    c, made = found
    bias = np.zeros(len(w_ih), x.dtype)
    for b in (b_ih, b_hh):
        if b is not None:
            bias += b
    weights = _laid(c, made.inwards[0], (w_ih, w_hh), made.weights[0])
    inputs = [np.ascontiguousarray(a) for a in (x, h0, c0)]
    outputs = [np.empty((len(x), h0.shape[1]), x.dtype), np.empty_like(inputs[1]), np.empty_like(inputs[2])]
    workspace = np.empty(made.workspace, np.uint8)
    made.forward(*map(address, (*inputs, *weights, bias, *outputs, workspace)), *c.scratch(made.forward.scratchpad))
    return *outputs, (inputs, bias, outputs, workspace)  # type: ignore[return-value]


def lstm_grad(
    g_y: np.ndarray | None, g_h: np.ndarray | None, g_c: np.ndarray | None, x: np.ndarray, saved: tuple[Any, ...],
    w_ih: np.ndarray, w_hh: np.ndarray, w_hr: np.ndarray | None, *, sizes: Sequence[int], reverse: bool,
    needs_input: bool, dot: reference.Dot = dot,
) -> tuple[Any, ...]:  # fmt: skip
    """As `reference.lstm_grad`."""
    if isinstance(saved[0], np.ndarray):
        options: dict[str, Any] = {"sizes": sizes, "reverse": reverse, "needs_input": needs_input, "dot": dot}
        return reference.lstm_grad(g_y, g_h, g_c, x, saved, w_ih, w_hh, w_hr, **options)
    inputs, bias, outputs, workspace = saved
    found = _found(inputs[0], inputs[1], inputs[2], sizes, reverse)
    assert found is not None
    c, made = found
    weights = _laid(c, made.inwards[1], (w_ih, w_hh), made.weights[1])
    given = [
        np.zeros_like(y) if g is None else np.ascontiguousarray(g)
        for g, y in zip((g_y, g_h, g_c), outputs, strict=True)
    ]
    slopes = [np.empty_like(a) for a in inputs]
    rooms, g_bias = [np.zeros(n, np.uint8) for n in made.slopes], np.zeros_like(bias)  # to which gradients are added
    arrays = (*inputs, *weights, bias, *outputs, workspace, *given, *slopes, *rooms, g_bias)
    made.backward(*map(address, arrays), *c.scratch(made.backward.scratchpad))
    g_weights = [np.empty_like(np.ascontiguousarray(w)) for w in (w_ih, w_hh)]
    for reorder, room, g in zip(made.outwards, rooms, g_weights, strict=True):
        reorder(address(room), address(g), *c.scratch(reorder.scratchpad))
    return slopes[0] if needs_input else None, slopes[1], slopes[2], *g_weights, g_bias, None
