"""ZeRO stage 1: the state of an optimizer is cut into as many shards as there are ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dtrain.autograd import Tensor
from dtrain.backend import Array, on_gpu, to_numpy, xp_of
from dtrain.comm import Communicator, SingleCommunicator, shares
from dtrain.nn.flat import Flat
from dtrain.optim import Optimizer
from dtrain.optim.state import FlatState

__all__ = ["ZeroRedundancyOptimizer"]

# Elements of a rank's shard that the other ranks of its host read at a time: they stay in the cache.
_CHUNK = 1 << 17


class ZeroRedundancyOptimizer(Optimizer):
    """An optimizer of which each of P ranks keeps 1 / P of the state (Rajbhandari et al., arXiv:1910.02054, stage 1).

    optimizer_class: any optimizer whose update is elementwise; `defaults` are its options. comm: the job's
    communicator (None: one process).

        optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.AdamW, comm=job.comm, lr=1e-3)

    Rank r keeps state for the r-th of P equal parts of every flat buffer of parameters and updates the
    parameters there; then all ranks gather all parts. The parameters have the same bits as without
    sharding. Gradients must be the same on all ranks (DistributedDataParallel's are), and all ranks
    call `step`, `load_state_dict` and `consolidate_state_dict`, which exchange messages.

    A checkpoint holds the whole state in the format of `optimizer_class`, so it can be loaded there, or
    here on another number of ranks: `consolidate_state_dict()` collects it on one rank, where `state_dict()`
    then returns it. `load_state_dict` takes whole state on every rank and keeps the rank's part.

    Raises TypeError for an `optimizer_class` that is not elementwise. RuntimeError from `state_dict` without
    the collection before, and, once ranks have been lost, from `step`: their part of the state is gone with
    them; load a checkpoint.
    """

    def __init__(
        self, params: Any, optimizer_class: type[Optimizer], comm: Communicator | None = None, **defaults: Any
    ) -> None:
        if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, Optimizer)):
            got = optimizer_class if isinstance(optimizer_class, type) else f"an object of {type(optimizer_class)}"
            raise TypeError(f"optimizer_class must be an optimizer of dtrain.optim, got {got}")
        if not optimizer_class.elementwise or not _has_its_steps(optimizer_class):
            raise TypeError(
                f"the state of {optimizer_class.__name__} cannot be sharded: its update of an element depends on other "
                "elements (or it has a step of its own), and a shard begins and ends anywhere in a parameter; use the "
                "optimizer as it is, or one that is elementwise, such as AdamW"
            )
        self.comm: Communicator = SingleCommunicator() if comm is None else comm
        self.optim = optimizer_class(params, **defaults)  #: says what an update is
        self.numbers = self.optim.numbers
        self._consolidated: dict[str, Any] | None = None
        super().__init__(self.optim.param_groups, self.optim.defaults)
        self.optim.param_groups = self.param_groups

    def buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        return self.optim.buffers(group)

    def update(self, p: Array, g: Array, state: dict[str, Any], step: int, **options: Any) -> None:
        self.optim.update(p, g, state, step, **options)

    def advance(self, numbers: dict[str, float], step: int, **options: Any) -> dict[str, float]:
        return self.optim.advance(numbers, step, **options)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient; all ranks call this. closure: as of any optimizer.

        Raises RuntimeError where ranks have been lost since the state was made.
        """
        return super().step(closure)

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        self._check_generation()
        self._consolidated = None
        loss = super()._step(closure)
        for state in self._shards():
            if any(t.grad is not None for t, _ in state.pieces):
                state.gather_(state.flat.data)
        return loss

    def _new_state(self, flat: Flat, group: dict[str, Any]) -> FlatState:
        return _Shard(flat, self.buffers(group), self.comm, self.numbers)

    def _shards(self) -> list[_Shard]:
        return [state for states in self._flat_states for state in states if isinstance(state, _Shard)]

    def _check_generation(self) -> None:
        if any(state.generation != self.comm.generation for state in self._shards()):
            raise RuntimeError(
                "ranks have been lost, and with them their shards of the optimizer's state: call load_state_dict "
                "with the state of a checkpoint, or restart the job from one"
            )

    # -- state -----------------------------------------------------------------------------------

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:
        """parameter -> {"step": count, name: 1-D Tensor}, of updated parameters that reach into this rank's shard."""
        found = {}
        for state in self._shards():
            for i, (t, _) in enumerate(state.pieces):
                own = state.owned(i)[1]
                if state.counts[i]["step"] and own.start < own.stop:
                    found[t] = state.counts[i] | {n: Tensor(a[own]) for n, a in state.arrays.items()}
        return found

    def consolidate_state_dict(self, to: int | None = 0) -> None:
        """Collect the state of all ranks on rank `to` (None: on every rank) for `state_dict()`; all ranks call this."""
        self._check_generation()
        here = to is None or to == self.comm.rank
        found: dict[Tensor, dict[str, Any]] = {}
        for state in self._shards():
            if here:
                found |= {t: dict(counts) for t, counts, _ in state.by_tensor({}) if counts["step"]}
            for name in state.arrays:  # one by one: elsewhere a whole array is thrown away before the next is made
                for t, _, arrays in state.by_tensor({name: state.whole(name)}):
                    if t in found:
                        found[t][name] = Tensor(arrays[name].reshape(t.shape))
        self._consolidated = self._as_dict(found) if here else None

    def state_dict(self) -> dict[str, Any]:
        """The whole state, as `optimizer_class` would give it. Raises RuntimeError unless it was collected here."""
        if self._consolidated is None:
            raise RuntimeError(
                f"rank {self.comm.rank} has not got the whole state of the optimizer: after the last step call "
                "consolidate_state_dict() on all ranks, then state_dict() on rank 0; consolidate_state_dict(to=None) "
                "collects it on every rank"
            )
        return self._consolidated

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take options and this rank's part from whole state; all ranks call this. Errors: as of any optimizer."""
        self._consolidated = None
        super().load_state_dict(state_dict)


def _has_its_steps(optimizer_class: type[Optimizer]) -> bool:
    return optimizer_class.step is Optimizer.step and optimizer_class._step is Optimizer._step


class _Shard(FlatState):
    """This rank's shard of the state of a Flat, and how shards meet."""

    def __init__(self, flat: Flat, names: tuple[str, ...], comm: Communicator, numbers: tuple[str, ...]) -> None:
        n = len(flat.data)
        self.comm, self.generation = comm, comm.generation
        self.cuts = shares(n, comm.size)
        super().__init__(flat, names, slice(self.cuts[comm.rank], self.cuts[comm.rank + 1]), numbers)
        self.most = -(-n // comm.size)
        self.room = max(1, min(self.most, _CHUNK))
        # Two rooms, used by turns: while one is read, the other may be written.
        self.window = comm.window(2 * self.room * flat.data.itemsize) if comm.size > 1 else None
        self.rooms = [] if self.window is None else [
            [part.view(flat.data.dtype)[turn * self.room :][: self.room] for part in self.window.parts]
            for turn in range(2)
        ]  # fmt: skip
        self.turn = 0

    def whole(self, name: str) -> Array:
        array = xp_of(self.flat.data).zeros_like(self.flat.data)
        array[self.own] = self.arrays[name]
        self.gather_(array)
        return array

    def gather_(self, array: Array) -> None:
        """Fill a whole array of which each rank has filled its own part. All ranks call this."""
        if not on_gpu(array):
            self._gather_on_host(array)
        elif self.comm.nccl is not None:
            self.comm.nccl.all_gather_(array, self.cuts)
        elif self.comm.size > 1:
            host = to_numpy(array)
            self._gather_on_host(host)
            array.set(host)

    def _gather_on_host(self, array: Array) -> None:
        if self.window is None:
            self.comm.all_gather_(array, self.cuts)
            return
        for start in range(0, self.most, self.room):
            self.turn = 1 - self.turn
            rooms = self.rooms[self.turn]
            parts = [array[lo:hi][start : start + self.room] for lo, hi in zip(self.cuts, self.cuts[1:], strict=False)]
            rooms[self.comm.rank][: len(parts[self.comm.rank])] = parts[self.comm.rank]
            self.window.meet()
            for rank, part in enumerate(parts):
                if rank != self.comm.rank:
                    part[...] = rooms[rank][: len(part)]
