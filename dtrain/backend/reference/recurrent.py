"""Recurrent layers over whole sequences: one product for the inputs of all steps, then one product a step.

Sequences lie packed: x is (total, I), the rows of step 0 first, then those of step 1, ...; `sizes[t]` sequences
have a step t, no more than have a step t - 1, and row i of each step belongs to sequence i. The states are
(N, H), N = sizes[0]; in place, step t goes over their first sizes[t] rows, so that what is left in the end are
the last states of all sequences. `reverse` goes from the last step to the first: a sequence begins where it ends.

sigmoid(a) is (1 + tanh(a / 2)) / 2, and the halves are taken of the weights: that rounds nothing.
All matrix products are by `dot`, np.dot or what does the same faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.backend.reference.layout import contiguous, filled

__all__ = ["gru", "gru_grad", "lstm", "lstm_grad", "rnn", "rnn_grad"]

Dot = Callable[..., Any]


def _steps(sizes: Sequence[int], reverse: bool) -> list[tuple[slice, int]]:
    """(rows, how many) of every step, in the order in which they are taken."""
    steps, at = [], 0
    for n in sizes:
        steps.append((slice(at, at + n), n))
        at += n
    return steps[::-1] if reverse else steps


def _halved(weights: Sequence[Any], *halves: slice) -> list[Any]:
    """The weights and biases with some of their rows halved; None as it is."""
    made = [None if w is None else w.copy() for w in weights]
    for w in made:
        for rows in halves:
            if w is not None:
                w[rows] *= 0.5
    return made


def _affine(dot: Dot, x: np.ndarray, weight: np.ndarray, *biases: np.ndarray | None) -> np.ndarray:
    y = dot(x, weight.T)
    for bias in biases:
        if bias is not None:
            y += bias
    return y


def _by_gate(size: int, gates: np.ndarray, *values: float) -> np.ndarray:
    """A value per gate as a row for all columns. Passes over whole rows are faster than those over each gate."""
    return np.repeat(np.array(values, gates.dtype, like=gates), size)


def _column_sums(d: np.ndarray) -> np.ndarray:
    return filled((len(d),), 1, d).dot(d)


# -- tanh or relu ------------------------------------------------------------------------------------


def rnn(
    x: np.ndarray, h0: np.ndarray, w_ih: np.ndarray, w_hh: np.ndarray, b_ih: np.ndarray | None,
    b_hh: np.ndarray | None, *, relu: bool, sizes: Sequence[int], reverse: bool, dot: Dot = np.dot,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh), or relu of it. x: (total, I), h0: (N, H)

    w_ih: (H, I), w_hh: (H, H), b_ih, b_hh: (H,). Returns all states (total, H) and the last ones (N, H); for the
    gradient the state before each step (total, H).
    """
    y = _affine(dot, x, w_ih, b_ih, b_hh)
    before, h, scratch, w = np.empty_like(y), h0.copy(), np.empty_like(h0), contiguous(w_hh.T)
    for rows, n in _steps(sizes, reverse):
        a = y[rows]
        before[rows] = h[:n]
        dot(h[:n], w, out=scratch[:n])
        a += scratch[:n]
        if relu:
            np.maximum(a, 0, out=a)
        else:
            np.tanh(a, out=a)
        h[:n] = a
    return y, h, before


def rnn_grad(
    g_y: np.ndarray | None, g_h: np.ndarray | None, x: np.ndarray, y: np.ndarray, before: np.ndarray,
    w_ih: np.ndarray, w_hh: np.ndarray, *, relu: bool, sizes: Sequence[int], reverse: bool, needs_input: bool,
    dot: Dot = np.dot,
) -> tuple[Any, ...]:  # fmt: skip
    """Gradients of `rnn` with respect to x (None unless needed), h0, w_ih, w_hh, and either bias."""
    d = (y > 0).astype(y.dtype) if relu else 1 - y * y
    g = np.zeros((sizes[0], y.shape[1]), y.dtype, like=y) if g_h is None else g_h.copy()
    for rows, n in _steps(sizes, not reverse):
        part, gh = d[rows], g[:n]
        if g_y is not None:
            gh += g_y[rows]
        part *= gh
        dot(part, w_hh, out=gh)
    return dot(d, w_ih) if needs_input else None, g, dot(d.T, x), dot(d.T, before), _column_sums(d)


# -- LSTM --------------------------------------------------------------------------------------------


def lstm(
    x: np.ndarray, h0: np.ndarray, c0: np.ndarray, w_ih: np.ndarray, w_hh: np.ndarray, b_ih: np.ndarray | None,
    b_hh: np.ndarray | None, w_hr: np.ndarray | None, *, sizes: Sequence[int], reverse: bool, dot: Dot = np.dot,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:  # fmt: skip
    """i, f, o = sigmoid, g = tanh of W_ih x_t + b_ih + W_hh h_(t-1) + b_hh; c_t = f c_(t-1) + i g; h_t = o tanh(c_t)

    Hochreiter and Schmidhuber, Neural Computation 1997; Gers et al., 2000. x: (total, I), h0: (N, P), c0: (N, H),
    w_ih: (4H, I) in the order i, f, g, o, w_hh: (4H, P), b_ih, b_hh: (4H,). P is H; with w_hr: (P, H) the state is
    w_hr h_t (Sak et al., arXiv:1402.1128). Returns all states (total, P), the last h and c, and what `lstm_grad` needs.
    """
    size = c0.shape[1]
    w_ih, w, b_ih, b_hh = _halved((w_ih, w_hh, b_ih, b_hh), slice(0, 2 * size), slice(3 * size, None))
    gates = _affine(dot, x, w_ih, b_ih, b_hh)
    y = np.empty((len(x), h0.shape[1]), gates.dtype, like=gates)
    before, cells = np.empty_like(y), np.empty((len(x), size), y.dtype, like=y)
    tanhs = np.empty_like(cells)
    unprojected = np.empty_like(cells) if w_hr is not None else y
    h, c, scratch, new = h0.copy(), c0.copy(), np.empty((len(h0), 4 * size), y.dtype, like=y), np.empty_like(c0)
    w = contiguous(w.T)
    factor, summand = _by_gate(size, y, 0.5, 0.5, 1, 0.5), _by_gate(size, y, 0.5, 0.5, 0, 0.5)
    for rows, n in _steps(sizes, reverse):
        a, cell = gates[rows], c[:n]
        before[rows] = h[:n]
        cells[rows] = cell
        dot(h[:n], w, out=scratch[:n])
        a += scratch[:n]
        np.tanh(a, out=a)
        a *= factor
        a += summand
        cell *= a[:, size : 2 * size]
        cell += np.multiply(a[:, :size], a[:, 2 * size : 3 * size], out=new[:n])
        np.tanh(cell, out=tanhs[rows])
        np.multiply(a[:, 3 * size :], tanhs[rows], out=unprojected[rows])
        if w_hr is not None:
            dot(unprojected[rows], w_hr.T, out=y[rows])
        h[:n] = y[rows]
    return y, h, c, (gates, before, cells, tanhs, unprojected)


def lstm_grad(
    g_y: np.ndarray | None, g_h: np.ndarray | None, g_c: np.ndarray | None, x: np.ndarray,
    saved: tuple[np.ndarray, ...], w_ih: np.ndarray, w_hh: np.ndarray, w_hr: np.ndarray | None, *,
    sizes: Sequence[int], reverse: bool, needs_input: bool, dot: Dot = np.dot,
) -> tuple[Any, ...]:  # fmt: skip
    """Gradients of `lstm` with respect to x (None unless needed), h0, c0, w_ih, w_hh, either bias, and w_hr."""
    gates, before, cells, tanhs, unprojected = saved
    size, dtype = cells.shape[1], gates.dtype
    d = np.empty_like(gates)
    g = np.zeros((sizes[0], before.shape[1]), dtype, like=gates) if g_h is None else g_h.copy()
    gc_all = np.zeros((sizes[0], size), dtype, like=gates) if g_c is None else g_c.copy()
    g_projected = np.empty_like(before) if w_hr is not None else None
    one_for_tanh = _by_gate(size, gates, 0, 0, 1, 0)
    slopes, scratch = np.empty((sizes[0], 4 * size), dtype, like=gates), np.empty_like(gc_all)
    g_wide = np.empty_like(gc_all)
    for rows, n in _steps(sizes, not reverse):
        a, part, gc, gh, slope, tmp = gates[rows], d[rows], gc_all[:n], g[:n], slopes[:n], scratch[:n]
        if g_y is not None:
            gh += g_y[rows]
        if w_hr is not None:
            g_projected[rows] = gh  # type: ignore[index]
        wide = gh if w_hr is None else dot(gh, w_hr, out=g_wide[:n])
        i, f, k, o = (a[:, j * size : (j + 1) * size] for j in range(4))
        di, df, dk, do = (part[:, j * size : (j + 1) * size] for j in range(4))
        tanh_c = tanhs[rows]
        np.multiply(wide, tanh_c, out=do)
        np.multiply(tanh_c, tanh_c, out=tmp)
        np.subtract(1, tmp, out=tmp)
        tmp *= o
        tmp *= wide
        gc += tmp
        np.multiply(gc, k, out=di)
        np.multiply(gc, cells[rows], out=df)
        np.multiply(gc, i, out=dk)
        gc *= f
        # sigmoid' = s (1 - s), tanh' = (1 + t) (1 - t)
        part *= np.add(a, one_for_tanh, out=slope)
        part *= np.subtract(1, a, out=slope)
        dot(part, w_hh, out=gh)
    g_x = dot(d, w_ih) if needs_input else None
    g_hr = dot(g_projected.T, unprojected) if g_projected is not None else None
    return g_x, g, gc_all, dot(d.T, x), dot(d.T, before), _column_sums(d), g_hr


# -- GRU ---------------------------------------------------------------------------------------------


def gru(
    x: np.ndarray, h0: np.ndarray, w_ih: np.ndarray, w_hh: np.ndarray, b_ih: np.ndarray | None,
    b_hh: np.ndarray | None, *, sizes: Sequence[int], reverse: bool, dot: Dot = np.dot,
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:  # fmt: skip
    """r, z = sigmoid(W_ih x_t + b_ih + W_hh h + b_hh); n = tanh(W_in x_t + b_in + r (W_hn h + b_hn)); h_t = n+z(h-n)

    Cho et al., arXiv:1406.1078, with r applied after the product; h is h_(t-1). x: (total, I), h0: (N, H),
    w_ih: (3H, I) in the order r, z, n, w_hh: (3H, H), b_ih, b_hh: (3H,). Returns all states (total, H), the last
    ones, and what `gru_grad` needs.
    """
    size = h0.shape[1]
    two = slice(0, 2 * size)
    w_ih, w, b_ih, b_hh = _halved((w_ih, w_hh, b_ih, b_hh), two)
    gates = _affine(dot, x, w_ih, b_ih)
    if b_hh is not None:
        gates[:, two] += b_hh[two]
    y = np.empty((len(x), size), gates.dtype, like=gates)
    before, hidden = np.empty_like(y), np.empty_like(y)
    h, scratch, new = h0.copy(), np.empty((len(h0), 3 * size), y.dtype, like=y), np.empty_like(h0)
    w = contiguous(w.T)
    for rows, n in _steps(sizes, reverse):
        a, product, s, out = gates[rows], scratch[:n], h[:n], y[rows]
        before[rows] = s
        dot(s, w, out=product)
        a_rz, a_n, hn = a[:, two], a[:, 2 * size :], hidden[rows]
        a_rz += product[:, two]
        np.tanh(a_rz, out=a_rz)
        a_rz *= 0.5
        a_rz += 0.5
        hn[...] = product[:, 2 * size :]
        if b_hh is not None:
            hn += b_hh[2 * size :]
        a_n += np.multiply(a[:, :size], hn, out=new[:n])
        np.tanh(a_n, out=a_n)
        np.subtract(s, a_n, out=out)
        out *= a[:, size : 2 * size]
        out += a_n
        s[...] = out
    return y, h, (gates, before, hidden)


def gru_grad(
    g_y: np.ndarray | None, g_h: np.ndarray | None, x: np.ndarray, saved: tuple[np.ndarray, ...],
    w_ih: np.ndarray, w_hh: np.ndarray, *, sizes: Sequence[int], reverse: bool, needs_input: bool, dot: Dot = np.dot,
) -> tuple[Any, ...]:  # fmt: skip
    """Gradients of `gru` with respect to x (None unless needed), h0, w_ih, w_hh, b_ih and b_hh."""
    gates, before, hidden = saved
    size = before.shape[1]
    two = slice(0, 2 * size)
    d, d_hidden = np.empty_like(gates), np.empty_like(gates)  # of W_ih x + b_ih, of W_hh h + b_hh
    g = np.zeros((sizes[0], size), gates.dtype, like=gates) if g_h is None else g_h.copy()
    slopes, product = np.empty((sizes[0], 2 * size), gates.dtype, like=gates), np.empty_like(g)
    for rows, n in _steps(sizes, not reverse):
        a, part, gh, slope = gates[rows], d[rows], g[:n], slopes[:n]
        if g_y is not None:
            gh += g_y[rows]
        r, z, new = (a[:, j * size : (j + 1) * size] for j in range(3))
        dr, dz, dn = (part[:, j * size : (j + 1) * size] for j in range(3))
        np.subtract(before[rows], new, out=dz)
        dz *= gh
        np.multiply(new, new, out=dn)
        np.subtract(1, dn, out=dn)
        dn *= gh
        gh *= z
        dn *= np.subtract(1, z, out=product[:n])
        np.multiply(dn, hidden[rows], out=dr)
        np.multiply(a[:, two], a[:, two], out=slope)
        np.subtract(a[:, two], slope, out=slope)
        part[:, two] *= slope
        d_hidden[rows, two] = part[:, two]
        np.multiply(dn, r, out=d_hidden[rows, 2 * size :])
        gh += dot(d_hidden[rows], w_hh, out=product[:n])
    g_x = dot(d, w_ih) if needs_input else None
    return g_x, g, dot(d.T, x), dot(d_hidden.T, before), _column_sums(d), _column_sums(d_hidden)
