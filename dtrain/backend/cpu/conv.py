"""Convolution by oneDNN, in float32 and bfloat16. The arguments are those of `reference.conv`.

Images are channels last in memory, as everywhere in the kernels. A weight is moved into the layout of the primitive,
and its gradient out of it, at each call: a pass over the weight is little beside the passes over the images.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from dtrain.backend.cpu.onednn import (
    Arg,
    Context,
    Primitive,
    address,
    any_layout,
    context,
    moved,
    new,
    query,
    sizes,
    strided,
)  # fmt: skip
from dtrain.backend.cpu.processor import by_float32, is_amd
from dtrain.backend.halves import bfloat16
from dtrain.backend.reference import conv as reference
from dtrain.backend.reference.layout import Sizes, channels_first, channels_last, needed

__all__ = ["convolution", "convolution_data_grad", "convolution_weight_grad"]

FEW = 4
# oneDNN reads the weight once for each image, from beyond the L2 cache if it is large: with few places in an image that
# takes longer than the arithmetic on processors with a slow L3 cache, and a product over the places of all images is
# faster (512 channels, 4 x 4: 125 GFLOP/s instead of 105 on a Xeon; on an EPYC, whose L3 is fast, 110 instead of 250).
LARGE_WEIGHT, FEW_PLACES, MANY_ROWS = 1 << 20, 16, 256
_TRAINING, _DIRECT = 64, 1
_QUERY_WEIGHTS, _QUERY_DIFF_WEIGHTS = 131, 132


class _Convolution:
    """One of the three kernels for one problem: a primitive, and how a weight gets into its layout or out of it."""

    def __init__(
        self,
        context: Context,
        kernel: str,
        dtype: np.dtype,
        x: Sizes,
        weight: Sizes,
        out: Sizes,
        bias: bool,
        *steps: Any,
    ):
        """x: (N, I, *size), weight: (O, I / groups, *kernel), steps: stride, padding, dilation, groups."""
        stride, padding, dilation, groups = steps
        self.gradient = kernel == "weight"
        last = (0, *range(2, len(x)), 1)
        image, result = strided(x, dtype, last), strided((x[0], weight[0], *out), dtype, last)
        split = (groups, weight[0] // groups, *weight[1:]) if groups > 1 else weight
        best, self.biases = any_layout(split, dtype), strided(weight[:1], dtype) if bias else None
        whole = needed(out, weight[2:], stride, dilation)
        behind = [n - p - s for n, p, s in zip(whole, padding, x[2:], strict=True)]
        lies = (sizes(stride), sizes([d - 1 for d in dilation]), sizes(padding), sizes(behind))
        lib, engine, options = context.lib, context.engine, context.attributes
        b = self.biases.pointer if self.biases else None
        hint = pd = new(
            lib.convolution_forward_primitive_desc_create,
            engine, _TRAINING, _DIRECT, image.pointer, best.pointer, b, result.pointer, *lies, options,
        )  # fmt: skip
        try:
            if kernel == "data":
                pd = new(
                    lib.convolution_backward_data_primitive_desc_create,
                    engine, _DIRECT, image.pointer, best.pointer, result.pointer, *lies, hint, options,
                )  # fmt: skip
            elif kernel == "weight":
                pd = new(
                    lib.convolution_backward_weights_primitive_desc_create,
                    engine, _DIRECT, image.pointer, best.pointer, None, result.pointer, *lies, hint, options,
                )  # fmt: skip
        finally:
            if kernel != "forward":
                lib.primitive_desc_destroy(hint)
        plain = strided(split, dtype)
        self.weight = query(context, pd, _QUERY_DIFF_WEIGHTS if kernel == "weight" else _QUERY_WEIGHTS)
        if kernel == "forward":
            arguments = [(Arg.SRC, image), (Arg.WEIGHTS, self.weight), (Arg.DST, result)]
            if self.biases:
                arguments.append((Arg.BIAS, self.biases))
        elif kernel == "data":
            arguments = [(Arg.DIFF_DST, result), (Arg.WEIGHTS, self.weight), (Arg.DIFF_SRC, image)]
        else:
            arguments = [(Arg.DIFF_DST, result), (Arg.DIFF_WEIGHTS, self.weight), (Arg.SRC, image)]
        self.primitive = Primitive(context, pd, arguments)
        self.reorder: Primitive | None = None
        if not plain.same(self.weight):
            ends = (self.weight, plain) if kernel == "weight" else (plain, self.weight)
            self.reorder = moved(context, *ends)

    def __call__(self, context: Context, first: int, weight: int, second: int, *bias: int) -> None:
        """Addresses of the arrays: of an image or gradient, the weight, and another image or gradient."""
        if self.reorder is None:
            self.primitive(first, weight, second, *bias, *context.scratch(self.primitive.scratchpad))
            return
        own, *pads = context.scratch(self.weight.bytes, self.primitive.scratchpad, self.reorder.scratchpad)
        if self.gradient:
            self.primitive(first, own, second, pads[0])
            self.reorder(own, weight, pads[1])
        else:
            self.reorder(weight, own, pads[1])
            self.primitive(first, own, second, *bias, pads[0])


def _found(kernel: str, a: np.ndarray, b: np.ndarray, bias: np.ndarray | None, *problem: Any) -> Any:
    """The thread's context and what it keeps for this problem; None where the reference has to do it."""
    dtype = a.dtype
    if dtype not in (np.float32, bfloat16) or b.dtype != dtype or not (a.size and b.size):
        return None
    (n, *_), weight, out, *_, groups = problem
    small = prod(out) <= FEW_PLACES and n * prod(out) >= MANY_ROWS
    if small and prod(weight) >= LARGE_WEIGHT and groups == 1 and dtype == np.float32 and not is_amd():
        return None
    c = context()
    found = c.kept(_Convolution, kernel, dtype, *problem)
    return found and (c, found)


@by_float32
def convolution(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    out: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> np.ndarray:
    """Cross-correlation. x: (N, I, *size), weight: (O, I / groups, *kernel), bias: (O,) -> (N, O, *out)"""
    steps = (out, stride, padding, dilation, groups)
    problem = (x.shape, weight.shape, out, bias is not None, stride, padding, dilation, groups)
    if 0 not in out and (found := _found("forward", x, weight, bias, *problem)):
        xl, w = channels_last(x), np.ascontiguousarray(weight)
        y = np.empty((len(x), *out, len(weight)), x.dtype)
        b = () if bias is None else (np.ascontiguousarray(bias),)
        found[1](found[0], address(xl), address(w), address(y), *map(address, b))
        return channels_first(y)
    return reference.convolution(x, weight, bias, *steps)


@by_float32
def convolution_data_grad(
    g: np.ndarray,
    weight: np.ndarray,
    size: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> np.ndarray:
    """The gradient of `convolution` in x. g: (N, O, *out), weight: (O, I / groups, *kernel) -> (N, I, *size)"""
    shape = (len(g), weight.shape[1] * groups, *size)
    problem = (shape, weight.shape, g.shape[2:], False, stride, padding, dilation, groups)
    # For images of few channels, those that a model is given, oneDNN's code is the slower one.
    few = weight.shape[1] < FEW
    if not few and 0 not in size and (found := _found("data", g, weight, None, *problem)):
        gl, w = channels_last(g), np.ascontiguousarray(weight)
        gx = np.empty((len(g), *size, shape[1]), g.dtype)
        found[1](found[0], address(gl), address(w), address(gx))
        return channels_first(gx)
    return reference.convolution_data_grad(g, weight, size, stride, padding, dilation, groups)


@by_float32
def convolution_weight_grad(
    g: np.ndarray,
    x: np.ndarray,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The gradient of `convolution` in weight. g: (N, O, *out), x: (N, I, *size) -> (O, I / groups, *kernel)

    out: an array that it may be written to, and then is.
    """
    shape = (g.shape[1], x.shape[1] // groups, *kernel)
    problem = (x.shape, shape, g.shape[2:], False, stride, padding, dilation, groups)
    if found := _found("weight", g, x, None, *problem):
        gl, xl = channels_last(g), channels_last(x)
        gw = np.empty(shape, g.dtype) if out is None else out
        found[1](found[0], address(gl), address(gw), address(xl))
        return gw
    return reference.convolution_weight_grad(g, x, kernel, stride, padding, dilation, groups)
