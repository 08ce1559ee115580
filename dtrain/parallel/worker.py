"""One worker of DiLoCo: what is its own, how it is collected for a checkpoint, and how it is set from one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dtrain.autograd import Tensor
from dtrain.backend import Array
from dtrain.data.sampler import microbatch_block
from dtrain.optim.state import FlatState

if TYPE_CHECKING:
    from dtrain.parallel.workers import Workers

__all__ = ["Worker", "collect_states", "load_state"]


class Worker:
    """What is a worker's own: parameters (an array for each Flat), the inner optimizer's state, and its round so far.

    Its buffers are in `Buffers`.
    """

    def __init__(self, start: list[Array], groups: int) -> None:
        self.data = [np.empty_like(a) for a in start]
        self.states: list[list[FlatState]] = [[] for _ in range(groups)]
        self.begin_round()

    def begin_round(self) -> None:
        """The worker starts from the parameters of the round's start."""
        self.fresh = True  # it has not yet got them
        self.trained: set[int] = set()  # numbers of the parameters that have been updated
        self.samples, self.loss = 0, 0.0  # the loss is the sum over all samples


def collect_states(workers: Workers, to: int) -> list[dict[str, Any]]:
    """The states of all workers on rank `to`, [] elsewhere; all ranks call this."""
    comm = workers.comm
    blocks = [microbatch_block(r, comm.size, workers.microbatches) for r in range(comm.size)]
    found: dict[int, dict[str, Any]] = {}
    for k in range(max(map(len, blocks))):
        owners = [r for r, block in enumerate(blocks) if k < len(block)]
        # A rank without a k-th worker shows its last one's arrays, which have the same sizes, and sends nothing.
        workers.hold(min(k, len(workers.block) - 1))
        small = comm.all_gather_object(_small(workers))
        large = [_send(workers, array, owners, to) for array in _large(workers)]
        if comm.rank == to:
            found |= {blocks[r][k]: _as_dict(workers, small[r], [arrays[r] for arrays in large]) for r in owners}
    return [found[j] for j in sorted(found)]


def load_state(workers: Workers, state: dict[str, Any], param_groups: list[dict[str, Any]]) -> None:
    """Set the worker that is held."""
    workers.inner.load_state_dict({"state": state["state"], "param_groups": param_groups})
    if not workers.since:
        return
    worker = workers.held_worker
    worker.trained, worker.samples, worker.loss = set(state["trained"]), state["samples"], state["loss"]
    for t in (t for flat in workers.flats for t in flat.tensors):
        t.array[...] = _array(state["parameters"][workers.numbers[id(t)]])
    for buffer, value in zip(workers.buffers.now(), state["buffers"], strict=True):
        buffer.array[...] = _array(value)


# -- of the worker that is held ----------------------------------------------------------------------


def _small(workers: Workers) -> dict[str, Any]:
    """All but `_large`."""
    counts = {"counts": [state.counts for state in _states(workers)]}
    if not workers.since:
        return counts
    worker, buffers = workers.held_worker, [Tensor(t.array.copy()) for t in workers.buffers.now()]
    return counts | {
        "buffers": buffers, "trained": sorted(worker.trained), "samples": worker.samples, "loss": worker.loss
    }  # fmt: skip


def _large(workers: Workers) -> list[Array]:
    """The arrays that are as large as the model."""
    states = [a for state in _states(workers) for a in state.arrays.values()]
    return states + [flat.data for flat in workers.flats if workers.since]


def _states(workers: Workers) -> list[FlatState]:
    """The inner optimizer's state of what is trained."""
    flats = {id(flat) for flat in workers.flats}
    return [state for states in workers.inner._states() for state in states if id(state.flat) in flats]


def _send(workers: Workers, array: Array, owners: list[int], to: int) -> dict[int, Array]:
    """The arrays of all owners, by rank, on rank `to`."""
    n, comm = array.size, workers.comm
    outgoing = [n if r == to and comm.rank in owners else 0 for r in range(comm.size)]
    incoming = [n if r in owners and comm.rank == to else 0 for r in range(comm.size)]
    received = comm.all_to_all(array[: sum(outgoing)], outgoing, incoming)
    return dict(zip(owners, received.reshape(len(owners), n), strict=True)) if comm.rank == to else {}


def _as_dict(workers: Workers, small: dict[str, Any], large: list[Array]) -> dict[str, Any]:
    """A worker's state by parameters, from what `_small` and `_large` gave where it is held."""
    numbers, arrays = workers.numbers, iter(large)
    state: dict[int, dict[str, Any]] = {}
    for layout, counts in zip(_states(workers), small.pop("counts"), strict=True):
        whole = {name: next(arrays) for name in layout.arrays}
        for i, ((t, _), of_tensor) in enumerate(zip(layout.pieces, counts, strict=True)):
            if of_tensor["step"]:
                parts = {name: Tensor(a) for name, a in layout.of_tensor(i, whole).items()}
                state[numbers[id(t)]] = {**of_tensor, **parts}
    if workers.since:
        small["parameters"] = {
            numbers[id(t)]: Tensor(data[t._flat.slice].reshape(t.shape))
            for flat, data in zip(workers.flats, arrays, strict=True)
            for t in flat.tensors
        }
    return {"state": dict(sorted(state.items())), **small}


def _array(value: Any) -> Array:
    return getattr(value, "array", value)
