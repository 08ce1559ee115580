"""What travels with the gradients: the number of samples, the loss, and the module's buffers."""

from __future__ import annotations

import numpy as np

from dtrain.backend import Array
from dtrain.nn.flat import flatten
from dtrain.nn.module import Module

__all__ = ["Buffers"]


class Buffers:
    """Makes a microbatch's header, and takes the step's sum of all headers.

    The header is [weight, weight * loss, weight * each floating-point buffer, bytes of the other buffers].
    Every microbatch starts from the buffers of the step's beginning; afterwards floating-point ones are
    the weighted mean over microbatches, others (counters) what microbatch 0 made of them. With one
    microbatch nothing is averaged: a plain loop's bits.
    """

    def __init__(self, module: Module, microbatches: int) -> None:
        self.alone = microbatches == 1
        self.flats = [] if self.alone else flatten(b for b in module.buffers() if b.array.size)
        self.before = [flat.data.copy() for flat in self.flats]
        self.size = 2 + sum(flat.data.size if _is_float(flat.data) else flat.data.nbytes for flat in self.flats)

    def take(self, microbatch: int, weight: float, loss: float) -> Array:
        """This microbatch's header: (size,). The buffers go back to what they were before it."""
        header = np.zeros(self.size)
        header[0] = weight
        if weight:
            header[1] = loss if self.alone else weight * loss
        at = 2
        for flat, before in zip(self.flats, self.before, strict=True):
            if _is_float(flat.data):
                if weight:  # what a microbatch without samples made of them may be NaN
                    header[at : at + flat.data.size] = weight * flat.data
                at += flat.data.size
            else:
                if microbatch == 0:
                    header[at : at + flat.data.nbytes] = flat.data.view(np.uint8)
                at += flat.data.nbytes
            flat.data[...] = before
        return header

    def put(self, header: Array) -> float:
        """Set the buffers from the sum of all headers; return the mean loss over the global batch."""
        if self.alone:
            return float(header[1])
        total = float(header[0])
        if not total:
            raise ValueError("all microbatches of a step were empty or had weight 0: there is no mean to take")
        at = 2
        for flat, before in zip(self.flats, self.before, strict=True):
            if _is_float(flat.data):
                flat.data[...] = header[at : at + flat.data.size] / total
                at += flat.data.size
            else:
                flat.data[...] = header[at : at + flat.data.nbytes].astype(np.uint8).view(flat.data.dtype)
                at += flat.data.nbytes
            before[...] = flat.data
        return float(header[1] / total)


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f"
