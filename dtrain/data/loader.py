"""DataLoader: this rank's microbatches of every step, prepared ahead on threads.

The order of samples and their microbatches come from `sampler.py` and do not depend on the number
of ranks; so neither does the loader's state, which is (epoch, samples consumed in it).
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtrain.autograd import Tensor
from dtrain.backend import to_device
from dtrain.backend.random import key
from dtrain.data.ahead import on_device
from dtrain.data.collate import default_collate, empty_like_batch
from dtrain.data.dataset import batch_method
from dtrain.data.prefetch import prefetched
from dtrain.data.sampler import cut, epoch_order, microbatch_block
from dtrain.data.step import Step
from dtrain.data.transforms import Context

__all__ = ["DataLoader"]


class DataLoader:
    """Iterates over this rank's microbatches, step by step; each `iter(loader)` is the next epoch.

    Step k of an epoch takes the samples order[k*B : (k+1)*B] and cuts them into M nearly equal
    microbatches, of which this rank yields its own in order. A microbatch without samples (there are some
    where B or what is left for the last step is less than M) is yielded too, as arrays of shape (0, ...): a
    rank never misses its turn. No sample is ever repeated to fill one up.

    Args:
        dataset: has `len(dataset)` and `dataset[i]`.
        batch_size: B, the samples of a step over all ranks (the global batch).
        shuffle: a new order every epoch, a function of (seed, epoch); else 0, 1, 2, ...
        sampler: gives the numbers of an epoch's samples in their order, `len(sampler)` of them, the same on all ranks
            (see `drawn.py`); or any sequence of numbers. In place of `shuffle`.
        num_workers: threads that prepare batches; 0 prepares them in the caller's thread.
        collate_fn: makes a batch of a list of samples; the first axis of its arrays counts samples.
        pin_memory, persistent_workers: as PyTorch's scripts pass them. What travels to `device` lies in pinned memory,
            and workers are threads, in any case.
        drop_last: leave out a last step of fewer than `batch_size` samples.
        comm: says `rank` and `size`, and `microbatches` if it has a say; without it, one rank. All ranks of
            a communicator make the loader together: that they agree is checked.
        microbatches: M; by default the communicator's, else the number of ranks.
        seed: of the order and of random transforms; by default that of `dtrain.manual_seed`.
        prefetch: microbatches prepared ahead of the one in use.
        device: where batches come out, "cpu" or a GPU, as `job.device` is. Then the next one travels while one is in
            use, which `x.to(device)` in the loop would wait for.

    Every Tensor of a batch says where it belongs: `x.microbatch == (m, M)`, and leads to what stands in its
    place in this rank's other microbatches of the step, which SyncBatchNorm needs.
    Raises ValueError or TypeError for arguments that cannot work, before any work is done.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        sampler: Any = None,
        *,
        num_workers: int = 1,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        persistent_workers: bool = False,
        comm: Any = None,
        microbatches: int | None = None,
        seed: int | None = None,
        prefetch: int = 2,
        device: str = "cpu",
    ):
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise TypeError(f"a dataset needs __len__ and __getitem__, {type(dataset).__name__} lacks one")
        if sampler is not None and shuffle:
            raise ValueError("a sampler gives the order of samples: leave shuffle=True away, or the sampler")
        self._comm = SimpleNamespace(rank=0, size=1) if comm is None else comm
        if microbatches is None:
            microbatches = getattr(comm, "microbatches", None) or self._comm.size
        self.dataset = dataset
        self.batch_size = _whole("batch_size", batch_size, least=1)
        self.microbatches = _whole("microbatches", microbatches, least=1)
        self.num_workers = _whole("num_workers", num_workers, least=0)
        self.prefetch = _whole("prefetch", prefetch, least=0)
        self.seed = key.seed if seed is None else int(seed)
        self.shuffle = bool(shuffle)
        self.drop_last = bool(drop_last)
        self._own: Sequence[int] | None = None
        microbatch_block(self._comm.rank, self._comm.size, microbatches)  # raises unless there are enough
        self.sampler = sampler
        self._samples = len(dataset if sampler is None else sampler)
        if self._samples == 0:
            raise ValueError(f"the {'dataset' if sampler is None else 'sampler'} is empty: there is nothing to load")
        # Rounded up, so that the last step may be short.
        self.steps = self._samples // batch_size if drop_last else -(-self._samples // batch_size)
        if self.steps == 0:
            raise ValueError(
                f"drop_last leaves no step: {self._samples} samples, batch_size {batch_size}; "
                f"use a batch_size of at most {self._samples}, or drop_last=False"
            )
        self._check_agreement(comm)
        if batch_size < microbatches and self._comm.rank == 0:
            print(
                f"dtrain: batch_size {batch_size} is that of all ranks together; of a step's {microbatches} "
                f"microbatches {microbatches - batch_size} have no samples",
                file=sys.stderr,
            )
        self.device = str(device)
        if self.device != "cpu":
            to_device(np.empty(0), self.device)  # raises where that is not to be had
        self._collate = collate_fn or default_collate
        self._take_batch = batch_method(dataset) if collate_fn is None else None
        self._epoch = 0
        self._consumed = 0
        self._iterator: object | None = None  # the present epoch's; None before it has begun

    def _check_agreement(self, comm: Any) -> None:
        """Raise the same ValueError on every rank if ranks would take different steps. Collective."""
        if not hasattr(comm, "all_gather_object"):
            return
        mine: dict[str, Any] = {
            "samples": self._samples,
            "batch_size": self.batch_size,
            "microbatches": self.microbatches,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "seed": self.seed,
        }
        if self.sampler is not None:
            mine["sampler"] = f"one whose numbers have the checksum {zlib.crc32(self._order(0).tobytes()):08x}"
        for rank, theirs in enumerate(everyone := comm.all_gather_object(mine)):
            for name, value in theirs.items():
                if value != everyone[0][name]:
                    raise ValueError(
                        f"ranks disagree about the loader's {name}: rank 0 has {everyone[0][name]}, rank {rank} has "
                        f"{value}; give every rank the same data set and options"
                    )

    @property
    def own_microbatches(self) -> Sequence[int]:
        """The microbatches of a step that this rank yields; others, when ranks are lost and the job goes on.

        A replay sets one of them.
        """
        return self._own or microbatch_block(self._comm.rank, self._comm.size, self.microbatches)

    @own_microbatches.setter
    def own_microbatches(self, microbatches: Sequence[int]) -> None:
        self._own = microbatches

    def __len__(self) -> int:
        """Batches that this rank yields in an epoch: its own microbatches of every step."""
        return self.steps * len(self.own_microbatches)

    def __iter__(self) -> Iterator[Any]:
        """The next epoch; after `load_state_dict`, the rest of the epoch that was saved."""
        if self._iterator is not None:
            self._epoch, self._consumed = self._epoch + 1, 0
        self._iterator = token = object()
        return self._walk(self._epoch, self._consumed // self.batch_size, token)

    def _walk(self, epoch: int, step: int, token: object) -> Iterator[Any]:
        order = self._order(epoch)
        redone = self._redone()
        while step < self.steps:
            generation, own = self._generation(), self.own_microbatches
            with closing(self._batches(order, epoch, step, own)) as batches:
                for k, microbatch, batch in batches:
                    step = k
                    # Handing out a step's last microbatch consumes the step: a checkpoint written in
                    # the loop's body, after the optimizer's step, must not repeat it.
                    if microbatch == own[-1] and token is self._iterator:
                        self._consumed = min((step + 1) * self.batch_size, self._samples)
                    yield batch
                    if self._generation() != generation:
                        break  # to go on with this rank's new microbatches
            if self._redone() == redone:
                step += 1
            else:  # the last one came to nothing
                redone = self._redone()
                if token is self._iterator:
                    self._consumed = step * self.batch_size

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """The numbers of an epoch's samples."""
        if self.sampler is None:
            return epoch_order(self.seed, epoch, self._samples, self.shuffle)
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
        order = np.array(list(self.sampler), np.int64)
        if len(order) != self._samples:
            raise ValueError(f"the sampler gives {len(order)} numbers, and its length was {self._samples}")
        outside = order[(order < 0) | (order >= len(self.dataset))]
        if len(outside):
            last = len(self.dataset) - 1
            raise ValueError(f"the sampler gives number {outside[0]}, and the dataset has samples 0 to {last}")
        return order

    def _batches(
        self, order: NDArray[np.int64], epoch: int, first_step: int, own: Sequence[int]
    ) -> Generator[tuple[int, int, Any], None, None]:
        """(step, microbatch, batch) of these microbatches, from this step to the end of the epoch."""

        def load(step: int, microbatch: int) -> Any:
            samples = order[step * self.batch_size : (step + 1) * self.batch_size]
            lo, hi = cut(len(samples), self.microbatches)[microbatch]
            return self._load(samples[lo:hi], epoch, spare=samples[:1])

        def places() -> Iterator[tuple[int, Step, int]]:
            for k in range(first_step, self.steps):
                step = Step(partial(load, k), own, self.microbatches)
                yield from ((k, step, microbatch) for microbatch in own)

        def get(place: tuple[int, Step, int]) -> tuple[tuple[int, Step, int], Any]:
            return place, place[1].get(place[2])

        with closing(prefetched(get, places(), self.num_workers, self.prefetch)) as batches:
            there = batches if self.device == "cpu" else on_device(batches, self.device)
            for (k, step, microbatch), batch in there:
                step.hand_out(microbatch)
                yield k, microbatch, batch

    def _generation(self) -> int:
        return getattr(self._comm, "generation", 0)

    def _redone(self) -> int:
        return getattr(self._comm, "redone", 0)

    def _load(self, samples: NDArray[np.int64], epoch: int, spare: NDArray[np.int64]) -> Any:
        """The batch of `samples`; if there are none, the batch of `spare` says the shapes."""
        if self._take_batch is not None:
            arrays = self._take_batch(samples, Context(samples, epoch, self.seed))
            return tuple(Tensor(array) for array in arrays)
        if len(samples) == 0:
            return empty_like_batch(self._collate([self._item(int(i), epoch) for i in spare]))
        return self._collate([self._item(int(i), epoch) for i in samples])

    def _item(self, i: int, epoch: int) -> Any:
        """Sample i. What it draws (dtrain.randn, say) is a function of (seed, epoch, i)."""
        with key.at(~self.seed, epoch, i):  # another seed, so that the draws are not those of a step
            return self.dataset[i]

    @property
    def epoch(self) -> int:
        """The epoch that is under way, or that the next `iter` begins if none has begun."""
        return self._epoch

    @property
    def samples_consumed(self) -> int:
        """Samples of the epoch's steps whose last microbatch on this rank has been handed out."""
        return self._consumed

    def set_epoch(self, epoch: int) -> None:
        """The next `iter` begins this epoch, or continues it after `load_state_dict`."""
        epoch = _whole("epoch", epoch, least=0)
        if self._iterator is not None or epoch != self._epoch:
            self._epoch, self._consumed, self._iterator = epoch, 0, None

    def state_dict(self) -> dict[str, int]:
        """The position in the run, equal on all ranks between steps: epoch and samples_consumed.

        In the middle of a step, the position is the step's start. After an epoch's last step, it is
        the start of the next epoch.
        """
        if self._consumed // self.batch_size == self.steps or self._consumed == self._samples:
            return {"epoch": self._epoch + 1, "samples_consumed": 0}
        return {"epoch": self._epoch, "samples_consumed": self._consumed}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """The next `iter` continues at this position, on any number of ranks.

        Raises ValueError when the position is not between two steps of this loader.
        """
        epoch = _whole("epoch", state["epoch"], least=0)
        consumed = _whole("samples_consumed", state["samples_consumed"], least=0)
        if consumed % self.batch_size or consumed >= self.steps * self.batch_size:
            raise ValueError(
                f"samples_consumed {consumed} is not between two steps: {self._samples} samples "
                f"in {self.steps} steps of {self.batch_size}; resume with the dataset, batch_size "
                "and drop_last that the state was saved with"
            )
        self._epoch, self._consumed, self._iterator = epoch, consumed, None


def _whole(name: str, value: Any, least: int) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)
