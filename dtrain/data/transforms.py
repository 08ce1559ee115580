"""Transforms of batches of images, with one random stream per sample.

A transform is any callable `t(x, context) -> array` on x: (N, C, H, W), where `context` says which
samples these are. Random transforms draw from `context.streams()`: what a sample gets is a function
of (seed, epoch, sample, number of earlier draws in the chain), never of the batch it came in, the
rank or the thread. A transform returns a new array or its input, and never writes into its input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtrain.backend.random import Purpose, key, stream

__all__ = ["Compose", "Context", "Normalize", "RandomCrop", "RandomHorizontalFlip", "Transform"]

Array = NDArray[Any]


class Context:
    """Where a batch belongs: the run's seed, the epoch, and the numbers of its samples, (N,)."""

    def __init__(self, samples: Array, epoch: int = 0, seed: int | None = None):
        self.samples = samples
        self.epoch = epoch
        self.seed = key.seed if seed is None else seed
        self._draws = 0

    def streams(self) -> Iterator[np.random.Generator]:
        """One generator per sample. Every call gives new streams, independent of earlier ones."""
        draw = self._draws
        self._draws += 1
        return (stream(self.seed, Purpose.AUGMENT, self.epoch, int(sample), draw) for sample in self.samples)


Transform = Callable[[Array, Context], Array]


class Compose:
    """One transform after another."""

    def __init__(self, transforms: Sequence[Transform]):
        self.transforms = list(transforms)

    def __call__(self, x: Array, context: Context) -> Array:
        for transform in self.transforms:
            x = transform(x, context)
        return x


class Normalize:
    """(x - mean) / std per channel; mean and std: a number, or one number per channel."""

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]):
        self.mean = np.asarray(mean, np.float64).reshape(-1, 1, 1)
        self.std = np.asarray(std, np.float64).reshape(-1, 1, 1)
        if not (self.std > 0).all():
            raise ValueError(f"std must be positive, got {std}")

    def __call__(self, x: Array, context: Context) -> Array:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, x.shape[1]):
                raise ValueError(
                    f"{name} has {len(values)} values but the images have {x.shape[1]} channels: "
                    f"x is {x.shape}; give one value, or one per channel"
                )
        return (x - self.mean.astype(x.dtype)) / self.std.astype(x.dtype)


class RandomCrop:
    """A random window of `size` of each image, after `padding` pixels of `fill` on every side.

    size, padding: one number, or (height, width). x: (N, C, H, W) -> (N, C, *size).
    Raises ValueError when the padded images are smaller than the window.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        padding: int | tuple[int, int] = 0,
        fill: float = 0.0,
    ):
        self.height, self.width = (size, size) if isinstance(size, int) else size
        self.pad_h, self.pad_w = (padding, padding) if isinstance(padding, int) else padding
        self.fill = fill

    def __call__(self, x: Array, context: Context) -> Array:
        n, channels, rows, columns = x.shape
        spare_rows = rows + 2 * self.pad_h - self.height
        spare_columns = columns + 2 * self.pad_w - self.width
        if spare_rows < 0 or spare_columns < 0:
            raise ValueError(
                f"cannot crop {self.height}x{self.width} out of {rows}x{columns} images "
                f"with padding {self.pad_h}, {self.pad_w}; use a smaller size or more padding"
            )
        edges = ((0, 0), (0, 0), (self.pad_h, self.pad_h), (self.pad_w, self.pad_w))
        padded = np.pad(x, edges, constant_values=self.fill)
        out = np.empty((n, channels, self.height, self.width), x.dtype)
        for i, draw in enumerate(context.streams()):
            top = draw.integers(spare_rows + 1)
            left = draw.integers(spare_columns + 1)
            out[i] = padded[i, :, top : top + self.height, left : left + self.width]
        return out


class RandomHorizontalFlip:
    """Each image mirrored left to right with probability `p`."""

    def __init__(self, p: float = 0.5):
        if not 0 <= p <= 1:
            raise ValueError(f"p must be a probability between 0 and 1, got {p}")
        self.p = p

    def __call__(self, x: Array, context: Context) -> Array:
        flips = np.array([draw.random() < self.p for draw in context.streams()], bool)
        out = x.copy()
        out[flips] = x[flips][..., ::-1]
        return out
