"""A stand-in for `cupy.cuda.nccl`, for ranks that are threads of this process: messages lie in queues."""

from __future__ import annotations

import ctypes
import itertools
import queue
import threading
from collections import defaultdict
from typing import Any

import numpy as np

from tests.cuda_on_cpu import cupy

available = True
NCCL_UINT8, NCCL_FLOAT32, NCCL_FLOAT64, NCCL_SUM = 1, 7, 8, 0
_SIZES = {NCCL_UINT8: 1, NCCL_FLOAT32: 4, NCCL_FLOAT64: 8}

_numbers = itertools.count()
_boxes: dict[Any, queue.SimpleQueue[bytes]] = defaultdict(queue.SimpleQueue)
_lock = threading.Lock()
_group = threading.local()


def get_unique_id() -> tuple[int, ...]:
    return (next(_numbers),)


def groupStart() -> None:  # noqa: N802
    _group.calls = []


def groupEnd() -> None:  # noqa: N802
    calls, _group.calls = _group.calls, None
    cupy._recorded(lambda: _exchange(calls))


def _exchange(calls: Any) -> None:
    for box, pointer, nbytes, sends in sorted(calls, key=lambda call: not call[3]):
        if sends:
            box.put(ctypes.string_at(pointer, nbytes))
        else:
            message = box.get(timeout=60)
            assert len(message) == nbytes, "sent and received bytes differ: NCCL would hang"
            ctypes.memmove(pointer, message, nbytes)


class NcclCommunicator:
    """One rank's end."""

    def __init__(self, size: int, identity: tuple[int, ...], rank: int) -> None:
        self.size, self.identity, self.rank = size, identity, rank

    def _box(self, source: int, target: int) -> queue.SimpleQueue[bytes]:
        with _lock:
            return _boxes[self.identity, source, target]

    def send(self, pointer: int, count: int, dtype: int, peer: int, stream: int) -> None:
        assert _group.calls is not None, "a send and a receive outside of a group wait for each other"
        _group.calls.append((self._box(self.rank, peer), pointer, count * _SIZES[dtype], True))

    def recv(self, pointer: int, count: int, dtype: int, peer: int, stream: int) -> None:
        assert _group.calls is not None
        _group.calls.append((self._box(peer, self.rank), pointer, count * _SIZES[dtype], False))

    def allReduce(self, given: int, result: int, count: int, dtype: int, op: int, stream: int) -> None:  # noqa: N802
        cupy._recorded(lambda: self._all_reduce(given, result, count, dtype, op))

    def _all_reduce(self, given: int, result: int, count: int, dtype: int, op: int) -> None:
        kind = {NCCL_FLOAT32: np.float32, NCCL_FLOAT64: np.float64}[dtype]
        assert op == NCCL_SUM
        mine = ctypes.string_at(given, count * _SIZES[dtype])
        for peer in range(self.size):
            self._box(self.rank, peer).put(mine)
        parts = [np.frombuffer(self._box(peer, self.rank).get(timeout=60), kind) for peer in range(self.size)]
        total = np.add.reduce(parts[::-1])  # in another order than the tree's
        ctypes.memmove(result, np.ascontiguousarray(total, kind).ctypes.data, count * _SIZES[dtype])
