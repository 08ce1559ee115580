"""The way of batches to a GPU, one ahead of the one in use, beside the GPU's work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dtrain.autograd import map_tensors
from dtrain.backend.gpus import current_stream, new_stream, require

__all__ = ["on_device"]


def on_device(batches: Iterator[tuple[Any, Any]], device: str) -> Iterator[tuple[Any, Any]]:
    """(place, batch) of each, with the batch's Tensors on a GPU; the next batch travels while one is in use.

    Copies go on a stream of their own. One begins when the work that the GPU has been given before is done, for that
    may read memory which the copy writes to; and the stream of the one who uses the batch waits for its copy.
    """
    number = device.partition(":")[2]
    cupy = require(int(number) if number else None)
    with cupy.cuda.Device(int(number) if number else cupy.cuda.runtime.getDevice()):
        stream = new_stream()

    def start(batch: Any) -> tuple[Any, Any]:
        stream.wait_event(current_stream().record())
        with stream:
            return map_tensors(lambda x: x.to(device), batch), stream.record()

    before = None
    for place, batch in batches:
        after = place, *start(batch)
        if before is not None:
            yield _arrived(*before)
        before = after
    if before is not None:
        yield _arrived(*before)


def _arrived(place: Any, batch: Any, copied: Any) -> tuple[Any, Any]:
    current_stream().wait_event(copied)
    return place, batch
