"""Random draws on the device, from the streams that a CPU has; see `dtrain.backend.random`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dtrain.backend import capture, reference
from dtrain.backend.cuda.host import on_host
from dtrain.backend.cuda.loader import blocks, kernel

__all__ = ["dropout_mask"]

_THREADS = 256
_on_host = on_host(reference.dropout_mask)


def dropout_mask(draw: Callable[[], np.random.Generator], shape: tuple[int, ...], p: float) -> Any:
    """True where an element is kept: word i of the stream (32 bits, little end first) >= p * 2^32."""
    import cupy

    generator = draw()
    words = _words(generator)
    if words is None:
        return _on_host(lambda: generator, shape, p)
    n = math.prod(shape)
    kept = cupy.empty(shape, np.bool_)
    least = np.uint32(min(p * 2**32, 2**32 - 1))
    where = blocks(-(-n // 8), _THREADS), (_THREADS,)
    record = capture.present()
    if capture.rehearsing():
        kernel("random", "dropout_mask_of")
    if record is not None:
        there = record.room("dropout", words, np.uint64)
        here = record.rooms[-1][1]
        record.effect(lambda: here.__setitem__(..., _words(draw())))
        kernel("random", "dropout_mask_of")(*where, (kept, np.int64(n), least, there))
    elif n:
        kernel("random", "dropout_mask")(*where, (kept, np.int64(n), least, *words))
    return kept


def _words(generator: np.random.Generator) -> list[Any] | None:
    """Key and counter of a new stream of ours; None of another generator."""
    state: Any = generator.bit_generator.state
    if state["bit_generator"] != "Philox" or state["buffer_pos"] != 4:
        return None
    return [np.uint64(w) for w in (*state["state"]["key"], *state["state"]["counter"])]
