"""Batches of sequences of several lengths: padded to one length, or packed without padding.

A packed batch holds the first steps of all sequences, then the second steps of all that have one, and so on, the
longest sequence first: nn.RNN, nn.LSTM and nn.GRU take it step by step and waste nothing on padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dtrain.autograd import Tensor
from dtrain.ops.packing import pack_rows, pad_rows
from dtrain.ops.shape import cat

__all__ = [
    "PackedSequence",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]


class _Packed(NamedTuple):
    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None
    unsorted_indices: Tensor | None


class PackedSequence(_Packed):
    """Sequences packed step by step. data: (sum of lengths, ...), batch_sizes: (longest,), of int64

    batch_sizes[t] is the number of sequences that have a step t. sorted_indices, (N,) or None: which of the given
    sequences comes first, second, ... when the longest does; unsorted_indices is its inverse, made where not given.
    Made by `pack_padded_sequence` and `pack_sequence`.
    """

    def __new__(
        cls,
        data: Any,
        batch_sizes: Tensor | None = None,
        sorted_indices: Tensor | None = None,
        unsorted_indices: Tensor | None = None,
    ) -> PackedSequence:
        if batch_sizes is None:
            data, batch_sizes = data
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """data in another dtype or on another device; self where nothing changes."""
        data = self.data.to(*args, **kwargs)
        return self if data is self.data else type(self)(data, *self[1:])

    def double(self) -> PackedSequence:
        """data in float64."""
        return self.to(np.dtype(np.float64))

    def float(self) -> PackedSequence:
        """data in float32."""
        return self.to(np.dtype(np.float32))

    def half(self) -> PackedSequence:
        """data in float16."""
        return self.to(np.dtype(np.float16))

    def long(self) -> PackedSequence:
        """data in int64."""
        return self.to(np.dtype(np.int64))

    def int(self) -> PackedSequence:
        """data in int32."""
        return self.to(np.dtype(np.int32))

    def cpu(self) -> PackedSequence:
        """data on the CPU."""
        return self.to("cpu")

    def pin_memory(self) -> PackedSequence:
        """The same: there is nothing to pin."""
        return self

    @property
    def is_cuda(self) -> bool:
        """Whether data is on a GPU."""
        return False


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The permutation that undoes one of 0 to n - 1; None for None."""
    if permutation is None:
        return None
    return Tensor(np.argsort(permutation.array, kind="stable").astype(permutation.dtype, copy=False))


def _lengths(lengths: Any) -> np.ndarray:
    array = lengths.array if isinstance(lengths, Tensor) else np.asarray([int(n) for n in lengths], np.int64)
    return array.astype(np.int64, copy=False)


def _rows(lengths: np.ndarray, order: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Where step t of sequence b, row t * batch + b of a padded batch, comes in the packed one; and the batch sizes.

    lengths: in descending order, those of the sequences order[0], order[1], ...
    """
    steps = np.arange(lengths[0])[:, None]
    there = steps < lengths
    return (steps * batch + order)[there], there.sum(1)


def pack_padded_sequence(
    input: Tensor,  # noqa: A002
    lengths: Tensor | Sequence[int],
    batch_first: bool = False,
    enforce_sorted: bool = True,
) -> PackedSequence:
    """A padded batch without its padding. input: (T, N, ...), or (N, T, ...) with batch_first; lengths: (N,)

    enforce_sorted wants descending lengths; without it sequences are sorted, and come back in their order from
    `pad_packed_sequence`, as do the states of recurrent layers. N may be 0, unlike in PyTorch: microbatches are
    without samples now and then. Raises RuntimeError for lengths that are not (N,), not in 1 to T, or not sorted where
    they must be.
    """
    counts = _lengths(lengths)
    if input.ndim < 2:
        raise RuntimeError(f"pack_padded_sequence needs at least the dimensions (T, N), got shape {input.shape}")
    steps, batch = (input.shape[1], input.shape[0]) if batch_first else input.shape[:2]
    if counts.shape != (batch,):
        raise RuntimeError(
            f"pack_padded_sequence: lengths of shape {counts.shape} do not fit an input of shape {input.shape}; "
            f"one length for each of {batch} sequences is expected"
        )
    if not batch:  # a microbatch without samples: one step, which no sequence has
        return PackedSequence(input.reshape(0, *input.shape[2:]), Tensor(np.zeros(1, np.int64)))
    if counts.min() < 1 or counts.max() > steps:
        raise RuntimeError(
            f"pack_padded_sequence: lengths must be in 1 to {steps} for an input of shape {input.shape}, "
            f"got {counts.min()} to {counts.max()}"
        )
    order = np.arange(batch)
    if not enforce_sorted:
        order = np.argsort(-counts, kind="stable")
    elif (np.diff(counts) > 0).any():
        raise RuntimeError(
            f"pack_padded_sequence: the lengths {counts.tolist()} are not in descending order; "
            "sort them, or pass enforce_sorted=False"
        )
    rows, sizes = _rows(counts[order], order, batch)
    if batch_first:
        rows = rows % batch * steps + rows // batch
    data = pack_rows(input.reshape(steps * batch, *input.shape[2:]), rows)
    return PackedSequence(data, Tensor(sizes), None if enforce_sorted else Tensor(order))


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """The padded batch (T, N, ...), or (N, T, ...) with batch_first, and its lengths (N,), in the order before packing.

    T is the longest length, or total_length; padding_value fills what is no step. Raises ValueError for a
    total_length below the longest.
    """
    sizes = sequence.batch_sizes.array
    steps, batch = len(sizes), int(sizes[0])
    if total_length is not None and total_length < steps:
        raise ValueError(
            f"pad_packed_sequence: total_length {total_length} is less than {steps}, the length of the longest "
            f"sequence of data of shape {sequence.data.shape}"
        )
    total = steps if total_length is None else total_length
    lengths = (sizes[:, None] > np.arange(batch)).sum(0)
    if not batch:
        lead = (0, total) if batch_first else (total, 0)
        return sequence.data.reshape(*lead, *sequence.data.shape[1:]), Tensor(lengths)
    order = np.arange(batch) if sequence.sorted_indices is None else sequence.sorted_indices.array
    rows, _ = _rows(lengths, order, batch)
    lead = (total, batch)
    if batch_first:
        rows, lead = rows % batch * total + rows // batch, (batch, total)
    padded = pad_rows(sequence.data, rows, total * batch, padding_value)
    unsorted = sequence.unsorted_indices
    return padded.reshape(*lead, *padded.shape[1:]), Tensor(lengths if unsorted is None else lengths[unsorted.array])


def pad_sequence(
    sequences: Iterable[Tensor], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Tensor:
    """Sequences (L, ...) of several lengths as one batch (T, N, ...), or (N, T, ...) with batch_first.

    T is the longest length; padding_value goes after each sequence, or before it with padding_side="left".
    Raises RuntimeError for no sequences, ValueError for another side or other dimensions that differ.
    """
    if not isinstance(sequences, Iterable):
        raise RuntimeError(f"pad_sequence needs a list of sequences, got {type(sequences).__name__}")
    given = list(sequences)
    if not given:
        raise RuntimeError("pad_sequence needs at least one sequence")
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side must be 'left' or 'right', got {padding_side!r}")
    rest = given[0].shape[1:]
    if any(s.shape[1:] != rest for s in given):
        raise ValueError(f"pad_sequence: the shapes {[s.shape for s in given]} differ in more than their first size")
    lengths, batch = [len(s) for s in given], len(given)
    longest = max(lengths)
    starts = [longest - n if padding_side == "left" else 0 for n in lengths]
    places = [np.arange(at, at + n) for at, n in zip(starts, lengths, strict=True)]
    if batch_first:
        rows = [b * longest + t for b, t in enumerate(places)]
    else:
        rows = [t * batch + b for b, t in enumerate(places)]
    if not longest:
        return cat(given).reshape(*((batch, 0) if batch_first else (0, batch)), *rest)
    padded = pad_rows(cat(given), np.concatenate(rows), batch * longest, padding_value)
    return padded.reshape(*((batch, longest) if batch_first else (longest, batch)), *rest)


def unpad_sequence(padded_sequences: Tensor, lengths: Tensor, batch_first: bool = False) -> list[Tensor]:
    """The sequences (L, ...) of a batch padded on the right: (T, N, ...), or (N, T, ...) with batch_first."""
    batch = padded_sequences if batch_first else padded_sequences.transpose(0, 1)
    return [batch[i, :n] for i, n in enumerate(_lengths(lengths).tolist())]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Sequences (L, ...) packed; see `pack_padded_sequence` for enforce_sorted and what raises."""
    return pack_padded_sequence(pad_sequence(sequences), [len(s) for s in sequences], enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences (L, ...) that were packed, in their order."""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)
