"""Gradients as 8-bit whole numbers."""

from __future__ import annotations

import numpy as np

from dtrain.backend import Array
from dtrain.parallel.hooks.bucket import GradBucket, pack, unpack
from dtrain.parallel.hooks.default_hooks import raise_unless_finite
from dtrain.parallel.hooks.feedback import ErrorFeedback

__all__ = ["quantization_perchannel_hook"]


def quantization_perchannel_hook(state: ErrorFeedback | None, bucket: GradBucket, bucket_size: int = 512) -> Array:
    """int8 with one float32 scale for each block of `bucket_size` elements: about a quarter of the bytes of float32.

    scale = max|x| / 127, q = round(x / scale), ties to even; x is read as q * scale. Every leaf, and every sum of the
    tree, is rounded so, and blocks begin anew with every parameter: bits depend neither on ranks nor on buckets.
    Parameters of fewer than `bucket_size` elements travel as they are. state: None, or ErrorFeedback(), which
    adds what the rounding of a leaf has lost to the next step's.

    PyTorch's hook of this name gathers the ranks' uint8 instead, which grows with the number of ranks; its blocks
    have a zero point as well. functools.partial sets `bucket_size`. Raises FloatingPointError, on every rank, for
    gradients that are not finite or leave float32.
    """
    large = [place for place in bucket.places if place.size >= bucket_size]
    small = [place for place in bucket.places if place.size < bucket_size]
    out = bucket.zeros()
    unpack(bucket.all_reduce({j: pack(leaf, small) for j, leaf in bucket.leaves.items()}), small, out)
    rows = {}
    with np.errstate(over="ignore", invalid="ignore"):
        for j, leaf in bucket.leaves.items():
            blocks = [_quantize(np.zeros((0, bucket_size), np.float32))]
            for place in large:
                x: Array | None = leaf[place.where]
                if state is not None:
                    x = state.with_error(place.name, j, leaf[place.where])
                block = _blocks(leaf[place.where] if x is None else x, bucket_size)
                blocks.append(_quantize(block))
                if state is not None and x is not None:
                    state.keep(place.name, j, x - _dequantize(blocks[-1]).reshape(-1)[: place.size])
            rows[j] = np.concatenate(blocks)
        total = _dequantize(bucket.all_reduce(rows, lambda a, b: _quantize(_dequantize(a) + _dequantize(b))))
    at = 0
    for place in large:
        many = -(-place.size // bucket_size)
        out[place.where] = total[at : at + many].reshape(-1)[: place.size]
        at += many
    raise_unless_finite(bucket, out, "int8 has no such numbers: look for what made them, or clip")
    if state is not None:
        state.finish(bucket.is_last())
    return out


def _blocks(x: Array, size: int) -> Array:
    """x as float32 in blocks, the last one filled with zeros: (n,) -> (blocks, size)."""
    blocks = np.zeros((-(-x.size // size), size), np.float32)
    blocks.reshape(-1)[: x.size] = x
    return blocks


def _quantize(x: Array) -> Array:
    """(blocks, size) -> (blocks,) of what travels. A scale that is not finite makes its whole block NaN."""
    rows = np.empty(len(x), [("scale", np.float32), ("q", np.int8, x.shape[1])])
    scale = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    rows["scale"] = scale[:, 0]
    usable = np.isfinite(scale) & (scale > 0)
    # Below 1e-36 a scale is rounded so coarsely that 127 of it may be less than x.
    rows["q"] = np.rint(np.clip(np.where(usable, x, 0) / np.where(usable, scale, 1), -127, 127))
    return rows


def _dequantize(rows: Array) -> Array:
    return rows["q"] * rows["scale"][:, None]
