"""Dropout."""

from __future__ import annotations

from typing import Any

from dtrain.autograd import is_grad_enabled, op
from dtrain.backend import Array, backend_of
from dtrain.backend.random import Purpose, next_stream

__all__ = ["draw_kept", "dropout"]


def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:  # noqa: A002
    """Zero each element with probability p and multiply the others by 1 / (1 - p) (Srivastava et al., JMLR 2014).

    The mask is a function of (seed, step, microbatch, call), so it does not depend on the number of
    ranks. Without `training` the input itself is returned. Raises ValueError for p outside [0, 1].
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p must be in [0, 1], got {p}")
    if not training or p == 0:
        return input
    return _dropout(input, p)


@op
def _dropout(x: Any, p: float) -> Any:
    scale = x.dtype.type(1 / (1 - p)) if p < 1 else x.dtype.type(0)
    factor = draw_kept(x, x.shape, p) * scale
    return x * factor, lambda g: g * factor


def draw_kept(x: Array, shape: tuple[int, ...], p: float) -> Array:
    """True where dropout with probability p keeps an element, of `shape`, where x lives: the next draw of this step."""
    stream = next_stream(Purpose.GRAPH if is_grad_enabled() else Purpose.NO_GRAD)
    return backend_of(x).dropout_mask(stream, shape, p)
