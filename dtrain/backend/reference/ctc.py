"""Connectionist temporal classification: the forward and backward recursions (Graves et al., ICML 2006)."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["ctc", "ctc_grad"]


def _shifted(a: Any, n: int) -> Any:
    """a[:, s - n] at s; -inf where there is nothing."""
    out = np.full_like(a, -np.inf)
    if n > 0:
        out[:, n:] = a[:, :-n]
    else:
        out[:, :n] = a[:, -n:]
    return out


def _log_sum(parts: Any) -> Any:
    """log(sum(exp(parts))); -inf where all are."""
    top = np.maximum.reduce(parts)
    low = np.isneginf(top)
    base = np.where(low, 0, top)
    with np.errstate(divide="ignore"):
        return np.log(sum(np.exp(p - base) for p in parts)) + base


def _steps(emitted: Any, can_skip: Any) -> Any:
    """alpha (T, N, S'): the log probability of all paths that are in state s after frame t, frame t included."""
    alpha = np.full_like(emitted, -np.inf)
    alpha[0, :, :2] = emitted[0, :, :2]
    for t in range(1, len(emitted)):
        before = alpha[t - 1]
        skipped = np.where(can_skip, _shifted(before, 2), -np.inf)
        alpha[t] = _log_sum([before, _shifted(before, 1), skipped]) + emitted[t]
    return alpha


def _ends(target_lengths: Any, states: int) -> Any:
    """(N, S') true at the states in which a path may end: the last label and the blank after it."""
    s = np.arange(states)
    last = 2 * target_lengths[:, None]
    return (s == last) | (s == last - 1)


def ctc(log_probs: Any, states: Any, can_skip: Any, input_lengths: Any, target_lengths: Any) -> tuple[Any, Any]:
    """(losses (N,), alpha): -log of the probability of all alignments of the targets.

    log_probs (T, N, C); states (N, S'): the targets with blanks between and around them; can_skip (N, S'): whether a
    path may come to a state from the one before the last (where both are labels that differ).
    """
    emitted = np.take_along_axis(log_probs, states[None], 2)
    alpha = _steps(emitted, can_skip)
    n = np.arange(log_probs.shape[1])
    final = np.where(_ends(target_lengths, states.shape[1]), alpha[input_lengths - 1, n], -np.inf)
    losses = -np.logaddexp.reduce(final, axis=1)
    return np.where(input_lengths == 0, np.where(target_lengths == 0, 0, np.inf), losses).astype(log_probs.dtype), alpha


def ctc_grad(
    log_probs: Any, states: Any, can_skip: Any, input_lengths: Any, target_lengths: Any, losses: Any, alpha: Any
) -> Any:
    """(T, N, C): the gradient of each loss for the scores that log_probs are the log_softmax of.

    exp(log_probs) less the probability that a path is at the class in that frame; 0 after the input's end.
    """
    frames, batch, _ = log_probs.shape
    emitted = np.take_along_axis(log_probs, states[None], 2)
    may_end = _ends(target_lengths, states.shape[1])
    beta = np.full_like(emitted, -np.inf)
    after = np.full_like(emitted[0], -np.inf)
    skips = np.zeros_like(can_skip)
    skips[:, :-2] = can_skip[:, 2:]
    for t in range(frames - 1, -1, -1):
        skipped = np.where(skips, _shifted(after, -2), -np.inf)
        onward = _log_sum([after, _shifted(after, -1), skipped]) + emitted[t]
        start = np.where(may_end, emitted[t], -np.inf)
        after = beta[t] = np.where((input_lengths - 1 == t)[:, None], start, onward)
    with np.errstate(invalid="ignore"):
        at = np.exp(alpha + beta - emitted + losses[:, None])
    grad = np.exp(log_probs)
    frame, sample = np.ogrid[:frames, :batch]
    np.subtract.at(grad, (frame[..., None], sample[..., None], states[None]), at)
    grad[frame >= input_lengths] = 0
    return grad
