"""Maxima over windows by oneDNN, in float32. The arguments are those of `reference.pooling`.

oneDNN passes over NaN and knows no number below the lowest finite one: an image that has such elements is the
reference's. Of equal elements the first wins, as there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.backend.cpu.onednn import (
    FEW,
    FORWARD,
    Arg,
    Context,
    Primitive,
    address,
    context,
    new,
    query,
    sizes,
    strided,
)  # fmt: skip
from dtrain.backend.halves import HALVES, halved, in_float32, widened
from dtrain.backend.reference import pooling as reference
from dtrain.backend.reference.layout import Sizes, channels_first, channels_last, needed

__all__ = ["max_pool", "max_pool_grad"]

_MAXIMUM, _QUERY_WORKSPACE = 0x1FF, 135


class _Pooling:
    """The maximum over windows of images (N, C, *S), channels last, and its gradient."""

    def __init__(self, context: Context, x: Sizes, out: Sizes, *steps: Sizes) -> None:
        kernel, stride, padding, dilation = steps
        dtype, last = np.dtype(np.float32), (0, *range(2, len(x)), 1)
        image, result = strided(x, dtype, last), strided((*x[:2], *out), dtype, last)
        whole = needed(out, kernel, stride, dilation)
        behind = [n - p - s for n, p, s in zip(whole, padding, x[2:], strict=True)]
        lies = (stride, kernel, [d - 1 for d in dilation], padding, behind)
        ends = (image.pointer, result.pointer, *map(sizes, lies))
        lib, engine, options = context.lib, context.engine, context.attributes
        pd = new(lib.pooling_forward_primitive_desc_create, engine, FORWARD, _MAXIMUM, *ends, options)
        try:
            workspace = query(context, pd, _QUERY_WORKSPACE)
            back = new(lib.pooling_backward_primitive_desc_create, engine, _MAXIMUM, *ends, pd, options)
        except Exception:
            lib.primitive_desc_destroy(pd)
            raise
        self.workspace = workspace.bytes
        kept = (Arg.WORKSPACE, workspace)
        self.forward = Primitive(context, pd, [(Arg.SRC, image), (Arg.DST, result), kept])
        self.backward = Primitive(context, back, [(Arg.DIFF_DST, result), (Arg.DIFF_SRC, image), kept])


class _Kept:
    """What the gradient needs: the key of the primitives, and which element of its window won, in oneDNN's terms."""

    def __init__(self, key: tuple[Any, ...], winner: np.ndarray) -> None:
        self.key, self.winner = key, winner


def max_pool(
    x: np.ndarray, out: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> tuple[np.ndarray, Any]:
    """`reference.max_pool`: y, and what the gradient needs."""
    steps = (kernel, stride, padding, dilation)
    if x.dtype in HALVES:
        y, kept = max_pool(widened(x), out, *steps)
        return halved(y, x.dtype), kept
    if x.size >= FEW and 0 not in out and x.dtype == np.float32 and np.isfinite(np.min(xl := channels_last(x))):
        c, key = context(), (x.shape, out, *steps)
        if found := c.kept(_Pooling, *key):
            y, winner = np.empty((len(x), *out, x.shape[1]), x.dtype), np.empty(found.workspace, np.uint8)
            found.forward(*map(address, (xl, y, winner)), *c.scratch(found.forward.scratchpad))
            return channels_first(y), _Kept(key, winner)
    return reference.max_pool(x, out, *steps)


@in_float32
def max_pool_grad(
    g: np.ndarray, kept: Any, size: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> np.ndarray:
    """`reference.max_pool_grad`: the gradient of x, of `size`."""
    if not isinstance(kept, _Kept):
        return reference.max_pool_grad(g, kept, size, kernel, stride, padding, dilation)
    c = context()
    found = c.kept(_Pooling, *kept.key)
    gl, gx = channels_last(g), np.empty((len(g), *size, g.shape[1]), g.dtype)
    found.backward(*map(address, (gl, gx, kept.winner)), *c.scratch(found.backward.scratchpad))
    return channels_first(gx)
