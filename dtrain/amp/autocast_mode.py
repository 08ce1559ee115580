"""`autocast`: which operations are computed in two-byte floats is said by the ops themselves (`@op(lowered=True)`).

A Tensor of float32 that such an op gets is converted, as a recorded op, so its gradient arrives in float32: weights,
and the sums of their gradients over microbatches and ranks, stay in float32. Functions that lose too much
(`@in_float32`, losses above all) convert the other way. All other operations take what they are given.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from dtrain.autograd.mode import mode
from dtrain.backend.halves import HALVES, bfloat16

__all__ = ["autocast", "get_autocast_dtype", "is_autocast_available", "is_autocast_enabled"]

_DEFAULTS = {"cpu": bfloat16, "cuda": np.dtype(np.float16)}


class autocast:  # noqa: N801  (PyTorch's name)
    """`with autocast("cpu"):`, or as a decorator: products of matrices and convolutions inside are in `dtype`.

    device_type: "cpu" or "cuda", whose tensors it is about. dtype: bfloat16 (the default of "cpu") or float16 (that of
    "cuda", as in PyTorch). enabled: False computes inside as without an autocast. cache_enabled changes nothing: a
    weight is converted where it is used. What comes out of such an operation has `dtype`; leave the context before
    `backward()`, whose operations have the dtypes of their forward ones. Contexts may be nested. Raises ValueError for
    another device, and TypeError for another dtype.

    Micikevicius et al., "Mixed precision training", arXiv:1710.03740; Kalamkar et al., "A study of bfloat16 for deep
    learning training", arXiv:1905.12322.
    """

    def __init__(
        self, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> None:
        if not is_autocast_available(device_type):
            raise ValueError(f"autocast: device_type must be 'cpu' or 'cuda', got {device_type!r}")
        self.device_type = _kind(device_type)
        dtype = _DEFAULTS[self.device_type] if dtype is None else np.dtype(dtype)
        if enabled and dtype not in HALVES:
            raise TypeError(f"autocast: dtype must be bfloat16 or float16, got {dtype}")
        self.dtype = dtype if enabled else None
        self.before: list[Any] = []

    def __enter__(self) -> autocast:
        self.before.append(mode.autocast)
        precision = {**(mode.autocast or {}), self.device_type: self.dtype}
        mode.autocast = {kind: dtype for kind, dtype in precision.items() if dtype is not None} or None
        return self

    def __exit__(self, *error: object) -> None:
        mode.autocast = self.before.pop()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return call


def is_autocast_available(device_type: str) -> bool:
    """Whether there is an `autocast` for this device: for "cpu" and "cuda"."""
    return _kind(device_type) in _DEFAULTS


def is_autocast_enabled(device_type: str = "cpu") -> bool:
    """Whether this thread is inside of an `autocast` that is enabled."""
    return _kind(device_type) in (mode.autocast or {})


def get_autocast_dtype(device_type: str = "cpu") -> np.dtype:
    """The dtype of the `autocast` that this thread is inside of, else the one it would have by default."""
    kind = _kind(device_type)
    return np.dtype((mode.autocast or {}).get(kind, _DEFAULTS[kind]))


def _kind(device_type: str) -> str:
    return str(device_type).split(":")[0]
