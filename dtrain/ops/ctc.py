"""The loss of connectionist temporal classification: labels without their alignment to the frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.autograd import Tensor, op
from dtrain.backend import backend_of, xp_of
from dtrain.ops.dtypes import in_float32
from dtrain.ops.pointwise_loss import reduced
from dtrain.ops.shape import squeeze, unsqueeze

__all__ = ["ctc_loss"]


@op
def _ctc_losses(log_probs: Any, states: Any, can_skip: Any, lengths: Any, zero_infinity: bool) -> Any:
    kernels, xp = backend_of(log_probs), xp_of(log_probs)
    losses, alpha = kernels.ctc(log_probs, states, can_skip, *lengths)
    lost = xp.isinf(losses) if zero_infinity else None
    value = losses if lost is None else xp.where(lost, 0, losses)

    def pullback(g: Any) -> Any:
        grad = kernels.ctc_grad(log_probs, states, can_skip, *lengths, losses, alpha) * g[:, None]
        return grad if lost is None else xp.where(lost[:, None], 0, grad)

    return value, pullback


def _lengths(name: str, lengths: Any, batch: int, limit: int) -> Any:
    """(N,) whole numbers from 0 to limit. Raises ValueError where they are not."""
    array = np.atleast_1d(np.asarray(lengths.array if isinstance(lengths, Tensor) else lengths))
    if array.dtype.kind not in "iu" or array.shape != (batch,):
        raise ValueError(
            f"ctc_loss: {name} must be {batch} whole numbers, one per sample, got shape {array.shape} of {array.dtype}"
        )
    if array.size and (array.min() < 0 or array.max() > limit):
        raise ValueError(f"ctc_loss: {name} must be from 0 to {limit}, got {array.tolist()}")
    return array.astype(np.int64)


@in_float32
def ctc_loss(
    log_probs: Any,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Any:
    """-log of the probability that frames give the targets, over all alignments (Graves et al., ICML 2006).

    log_probs: (T, N, C) or (T, C), the log_softmax of scores. targets: (N, S) class numbers, or all of them one
    after the other, (sum of target_lengths,), or (S,) for (T, C). input_lengths, target_lengths: N whole numbers,
    tensors or sequences. blank: the class that stands for no label. "mean" divides each loss by its number of
    labels, then averages over samples. zero_infinity: a loss of targets that are too long for the frames is 0, and
    has no gradient. The gradient is that for the scores (as in PyTorch). Raises ValueError for shapes, lengths and
    classes that do not fit.
    """
    batched = log_probs.ndim == 3
    if log_probs.ndim not in (2, 3) or not log_probs.is_floating_point():
        raise ValueError(f"ctc_loss needs log_probs (T, N, C) or (T, C), got {log_probs.shape} of {log_probs.dtype}")
    x = log_probs if batched else unsqueeze(log_probs, 1)
    frames, batch, classes = x.shape
    if not 0 <= blank < classes:
        raise ValueError(f"ctc_loss: blank must be 0 to {classes - 1}, a class of {log_probs.shape}, got {blank}")
    if targets.dtype.kind not in "iu" or targets.ndim not in (1, 2):
        raise ValueError(
            f"ctc_loss: targets must be integers, (N, S) or (sum,), got {targets.shape} of {targets.dtype}"
        )
    inputs = _lengths("input_lengths", input_lengths, batch, frames)
    labels = _lengths("target_lengths", target_lengths, batch, targets.shape[-1])
    if targets.ndim == 2 and len(targets.array) != batch or targets.ndim == 1 and labels.sum() > targets.shape[0]:
        raise ValueError(
            f"ctc_loss: targets of shape {targets.shape} do not fit log_probs of shape {log_probs.shape} and "
            f"target_lengths {labels.tolist()}"
        )
    states, can_skip = _states(targets.array, labels, blank)
    worst = states[(states < 0) | (states >= classes)]
    if worst.size:
        raise ValueError(f"ctc_loss: target {worst[0]} is no class of log_probs {log_probs.shape}, 0 to {classes - 1}")
    losses = _ctc_losses(x, states, can_skip, (inputs, labels), zero_infinity)
    if reduction == "mean":
        losses = losses / Tensor(np.maximum(labels, 1).astype(losses.dtype))
    result = reduced(losses, reduction)
    return squeeze(result, 0) if reduction == "none" and not batched else result


def _states(targets: Any, lengths: Any, blank: int) -> tuple[Any, Any]:
    """The targets with blanks between and around them, (N, 2 S + 1), and where a path may skip the blank before."""
    longest = int(lengths.max(initial=0))
    padded = np.full((len(lengths), longest), blank, np.int64)
    if targets.ndim == 2:
        padded[:] = np.where(np.arange(longest) < lengths[:, None], targets[:, :longest], blank)
    else:
        padded[np.arange(longest) < lengths[:, None]] = targets[: lengths.sum()]
    states = np.full((len(lengths), 2 * longest + 1), blank, np.int64)
    states[:, 1::2] = padded
    can_skip = np.zeros(states.shape, bool)
    can_skip[:, 3::2] = (padded[:, 1:] != padded[:, :-1]) & (padded[:, 1:] != blank)
    return states, can_skip
