"""Metric: whole numbers that samples add to, summed over ranks when the value is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtrain.autograd import Tensor
from dtrain.backend import to_numpy
from dtrain.comm import Communicator, SingleCommunicator

__all__ = ["Counts", "Metric", "values_of"]

Counts = NDArray[np.int64]


class Metric(ABC):
    """What all metrics do. A subclass says what samples add to the counts, and what value the counts have.

    comm: the ranks that the value is over (`job.comm`); without it, this process alone.
    shape: of the counts, int64. options: what else the metric was made with; ranks must agree on them.

    A metric needs no gradients: it looks at values alone.
    """

    def __init__(self, comm: Communicator | None, shape: tuple[int, ...], **options: Any) -> None:
        self._comm = SingleCommunicator() if comm is None else comm
        self._options = options
        self._counts: Counts = np.zeros(shape, np.int64)

    @abstractmethod
    def _count(self, *args: Any, **kwargs: Any) -> Counts:
        """What these samples add to the counts."""

    @abstractmethod
    def _value(self, counts: Counts) -> Any:
        """The value of counts, as a number or an array. Raises ZeroDivisionError where nothing was counted."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Count these samples of this rank. Nothing is sent; bad input counts nothing."""
        self._counts += self._count(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Count these samples, and return their own value: that of this batch, on this rank. Raises as `compute`."""
        counts = self._count(*args, **kwargs)
        self._counts += counts
        return self._as_tensor(counts)

    def compute(self) -> Tensor:
        """The value over all samples of all ranks since the last `reset`; counting may go on afterwards.

        Every rank calls this (in `job.retry(...)` where ranks may be lost), and gets the same float64 or int64 Tensor.
        Raises RuntimeError if no rank has counted a sample, ValueError if ranks have made different metrics.
        """
        everyone = self._comm.all_gather_object(repr(self))
        for rank, theirs in enumerate(everyone):
            if theirs != everyone[0]:
                raise ValueError(
                    f"ranks disagree about the metric: rank 0 has {everyone[0]}, rank {rank} has {theirs}; make the "
                    "same metrics on every rank, and call compute() of them in the same order"
                )
        counts = self._counts.copy()
        self._comm.allreduce_(counts)
        return self._as_tensor(counts)

    def reset(self) -> None:
        """Forget all samples."""
        self._counts[...] = 0

    def _as_tensor(self, counts: Counts) -> Tensor:
        try:
            return Tensor(np.asarray(self._value(counts)))
        except ZeroDivisionError:
            raise RuntimeError(
                f"{type(self).__name__} has counted no samples since its last reset(): call update() before compute()"
            ) from None

    def __repr__(self) -> str:
        options = (f"{name}={value!r}" for name, value in self._options.items() if value is not None)
        return f"{type(self).__name__}({', '.join(options)})"


def values_of(x: Any) -> NDArray[Any]:
    """The values of a Tensor, an array, numbers or lists of them."""
    return to_numpy(x.array if isinstance(x, Tensor) else x)
