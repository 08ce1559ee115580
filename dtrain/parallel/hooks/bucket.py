"""GradBucket: what a communication hook is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dtrain.autograd import Tensor
from dtrain.backend import Array
from dtrain.comm import Communicator
from dtrain.parallel.hooks.collectives import Add, MicrobatchMessages

__all__ = ["GradBucket", "Place", "pack", "unpack"]


@dataclass(frozen=True)
class Place:
    """The place of a parameter in a bucket's arrays: `array[place.where].reshape(place.shape)`."""

    name: str
    parameter: Tensor
    where: slice

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parameter.shape

    @property
    def size(self) -> int:
        return self.where.stop - self.where.start


class GradBucket:
    """Some parameters' gradients in each of this rank's microbatches, before they are summed.

    leaves: microbatch number j -> 1-D array (n,), w_j / W times the gradient in microbatch j, where w_j is the
    microbatch's number of samples and W that of the step: the sum over all M microbatches is the gradient of the mean
    loss. A parameter that a microbatch did not use has zeros. places: where each parameter lies in these arrays,
    in order; between parameters are a few zeros. A hook may write into its leaves.

    What a hook does to one parameter should depend on that parameter alone: which parameters share a
    bucket depends on their order.
    """

    def __init__(
        self,
        messages: MicrobatchMessages,
        comm: Communicator,
        index: int,
        last: bool,
        places: Sequence[Place],
        leaves: dict[int, Array],
    ) -> None:
        self.places, self.leaves = list(places), leaves
        self._messages, self._comm, self._index, self._last = messages, comm, index, last

    def index(self) -> int:
        """The number of the bucket among those of its dtype and parameter group; they come in this order."""
        return self._index

    def is_last(self) -> bool:
        """Whether this is the last bucket of the step."""
        return self._last

    def parameters(self) -> list[Tensor]:
        """The parameters, in order."""
        return [place.parameter for place in self.places]

    def gradients(self, microbatch: int) -> list[Array]:
        """The parameters' parts of a leaf, in their shapes: views."""
        return [self.leaves[microbatch][place.where].reshape(place.shape) for place in self.places]

    def zeros(self) -> Array:
        """An array of the size and dtype of a leaf, for the result: (n,)."""
        return np.zeros_like(next(iter(self.leaves.values())))

    def all_reduce(self, arrays: Mapping[int, Array], add: Add = np.add) -> Array:
        """The sum over all microbatches along the fixed tree, the same bits on every rank and at any number of ranks.

        arrays: for each of this rank's microbatches one of the same shape and dtype; () is not a shape for it. Every
        addition is made in that dtype, so what travels is as narrow as it is. add: another addition, of slices along
        the first dimension, for what is no number: add(a, b) -> array; it must leave a and b as they are.
        """
        return self._messages.all_reduce(self._comm, arrays, add)

    def all_gather(self, payloads: Mapping[int, Array]) -> list[Array]:
        """The payloads of all M microbatches, in their order, on every rank.

        payloads: for each of this rank's microbatches a 1-D array, of one size and dtype over all microbatches.
        """
        return self._messages.all_gather(self._comm, payloads)


def pack(array: Array, places: Sequence[Place]) -> Array:
    """The parts of some parameters, one after another: 1-D."""
    return np.concatenate([array[:0], *(array[place.where] for place in places)])


def unpack(packed: Array, places: Sequence[Place], out: Array) -> None:
    """Put what `pack` has packed to its places in `out`."""
    at = 0
    for place in places:
        out[place.where] = packed[at : at + place.size]
        at += place.size
