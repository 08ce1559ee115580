"""Hooks without state: no compression, and two narrower formats of numbers. PyTorch's names."""

from __future__ import annotations

import numpy as np

from dtrain.backend import Array
from dtrain.backend.halves import bfloat16, converted
from dtrain.parallel.hooks.bucket import GradBucket

__all__ = ["allreduce_hook", "bf16_compress_hook", "fp16_compress_hook", "raise_unless_finite"]


def allreduce_hook(state: object, bucket: GradBucket) -> Array:
    """The gradients as they are, by messages: what other hooks compare with. state: None."""
    return bucket.all_reduce(bucket.leaves)


def fp16_compress_hook(state: object, bucket: GradBucket) -> Array:
    """Gradients are sent, and added, as float16: half the bytes of float32. state: None.

    Every leaf and every sum of the tree is rounded to float16 (11 bits; 6e-8 to 65504, smaller is lost). As a leaf is
    w_j / W times a gradient, numbers are not larger than in the mean. Raises FloatingPointError, on every rank,
    where one is too large all the same, or was not finite to begin with (PyTorch goes on with inf).
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total = bucket.all_reduce({j: leaf.astype(np.float16) for j, leaf in bucket.leaves.items()})
    raise_unless_finite(bucket, total, "float16 ends at 65504: use bf16_compress_hook, or clip or scale the loss")
    return total.astype(bucket.zeros().dtype)


def bf16_compress_hook(state: object, bucket: GradBucket) -> Array:
    """Gradients are sent, and added, as bfloat16: half the bytes and the range of float32. state: None.

    Every leaf and every sum of the tree is rounded to bfloat16, the upper half of a float32 (8 bits), ties to even;
    float64 by way of float32. What is not finite stays so.
    """
    total = bucket.all_reduce({j: _to_bf16(leaf.astype(np.float32, copy=False)) for j, leaf in bucket.leaves.items()},
                              lambda a, b: _to_bf16(_from_bf16(a) + _from_bf16(b)))  # fmt: skip
    return _from_bf16(total).astype(bucket.zeros().dtype, copy=False)


def _to_bf16(x: Array) -> Array:
    """float32 -> bfloat16 as uint16, which MPI knows."""
    return converted(x, bfloat16).view(np.uint16)


def _from_bf16(x: Array) -> Array:
    return x.view(bfloat16).astype(np.float32)


def raise_unless_finite(bucket: GradBucket, total: Array, advice: str) -> None:
    """FloatingPointError that names the first parameter whose sum is not finite; the same on every rank."""
    for place in bucket.places if not np.isfinite(total).all() else []:
        part = total[place.where]
        if not np.isfinite(part).all():
            raise FloatingPointError(
                f"the compressed gradient of {place.name} is inf or NaN in {int((~np.isfinite(part)).sum())} of "
                f"{part.size} elements; {advice}"
            )
