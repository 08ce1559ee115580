"""Random draws on the device, from the streams that a CPU has; see `dtrain.backend.random`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dtrain.backend import reference
from dtrain.backend.cuda.host import on_host
from dtrain.backend.cuda.loader import blocks, kernel

__all__ = ["dropout_mask"]

_THREADS = 256
_on_host = on_host(reference.dropout_mask)


def dropout_mask(generator: np.random.Generator, shape: tuple[int, ...], p: float) -> Any:
    """True where an element is kept: word i of the stream (32 bits, little end first) >= p * 2^32."""
    import cupy

    state: Any = generator.bit_generator.state
    if state["bit_generator"] != "Philox" or state["buffer_pos"] != 4:  # one that is no stream of ours, or not new
        return _on_host(generator, shape, p)
    n = math.prod(shape)
    kept = cupy.empty(shape, np.bool_)
    if n:
        words = (np.uint64(w) for w in (*state["state"]["key"], *state["state"]["counter"]))
        least = np.uint32(min(p * 2**32, 2**32 - 1))
        kernel("random", "dropout_mask")(blocks(-(-n // 8), _THREADS), (_THREADS,), (kept, np.int64(n), least, *words))
    return kept
