"""The workers of DiLoCo: copies of the parameters, of which a rank holds a block and trains one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

from dtrain.autograd import Tensor, backward_root
from dtrain.backend import Array
from dtrain.backend.random import key
from dtrain.comm import Communicator
from dtrain.data.sampler import microbatch_block
from dtrain.nn.flat import flatten
from dtrain.nn.module import Module
from dtrain.optim import Optimizer
from dtrain.parallel.buffers import Buffers
from dtrain.parallel.reducer import Reducer, wait_for_all
from dtrain.parallel.worker import Worker, collect_states, load_state

__all__ = ["Workers"]


class Workers:
    """The optimizer of all workers: `step()` makes the inner step of the present one, and the outer step where it
    is due. `DiLoCo` makes it and says what it does.

    inner, outer: the optimizers. After a step `synchronized` says whether all workers of this rank have made it.
    """

    def __init__(
        self,
        module: Module,
        inner: Optimizer,
        outer: Callable[[list[dict[str, Any]]], Optimizer],
        comm: Communicator,
        microbatches: int,
        sync_every: int,
    ) -> None:
        self.inner, self.comm, self.microbatches, self.sync_every = inner, comm, microbatches, sync_every
        self.owner: object = self
        self.generation = comm.generation
        self.block = microbatch_block(comm.rank, comm.size, microbatches)
        flats = [flat for group in inner.param_groups for flat in flatten(group["params"])]
        self.flats = [flat for flat in flats if flat.tensors[0].requires_grad]
        self.numbers = {id(p): i for i, p in enumerate(p for g in inner.param_groups for p in g["params"])}
        self.buffers = Buffers(module, microbatches)
        self.reducers = [
            Reducer(self, comm, flat, microbatches, 1 if i else self.buffers.size, exact=True, overlap=False)
            for i, flat in enumerate(self.flats)
        ]
        for flat in self.flats:
            for t in flat.tensors:
                t._sink = self
        self.start = [flat.data for flat in self.flats]
        self._groups = len(inner.param_groups)
        self.mine = [Worker(self.start, self._groups) for _ in self.block]
        self.outer = outer([{"params": group["params"]} for group in inner.param_groups])
        self.held: int | None = None  # whose parameters the module has: a worker's, or those of the round's start
        self._phase = WeakMethod(self._here)
        self.steps = 0  #: steps done
        self.loss = math.nan  #: the mean over the workers of their mean losses in the last round
        self.synchronized = False
        self.since = 0  # steps done in this round
        self._k = 0  # the worker of this rank that comes next
        self._called = self._open = self._stepping = False
        self._consolidated: dict[str, Any] | None = None

    # -- a microbatch ----------------------------------------------------------------------------

    def begin(self, samples: int, origin: tuple[int, int] | None) -> None:
        """The module is about to be called with the next worker's microbatch."""
        if self.generation != self.comm.generation:
            raise RuntimeError(
                "ranks have been lost, and with them the parameters of their workers: restart the job from a checkpoint"
            )
        if self._k == 0 and not (
            len(self.inner.param_groups) == self._groups and all(f.is_whole() for f in self.flats)
        ):
            raise RuntimeError(
                "parameters have been converted, added to the optimizer or taken over by another wrapper since DiLoCo "
                "was made; make it after that"
            )
        if origin not in (None, (self.block[self._k], self.microbatches)):
            raise RuntimeError(
                f"{self._here()}: the loader gave microbatch {origin[0]} of {origin[1]}; give the loader the same comm "
                "and microbatches as the model, and call optimizer.step() once for each of its batches"
            )
        self.comm.waits.phase = self._phase
        self.synchronized = False
        self._called, self._samples = True, samples
        self.hold(self._k)
        self._before = self.buffers.save()
        key.move_to(self.steps, self.block[self._k])

    def _here(self) -> str:
        return f"step {self.steps}, worker {self.block[self._k]} of {self.microbatches}, rank {self.comm.rank}"

    def add(self, tensor: Tensor, g: Array) -> None:
        """Take the gradient of a parameter."""
        if not self._open:
            if not self._called:
                raise RuntimeError(
                    f"{self._here()}: a parameter gets a gradient, but the model was not called since the last step; "
                    "call the wrapped model, and optimizer.step() after each backward()"
                )
            root = backward_root()
            loss = root.item() if root is not None and root.numel() == 1 else math.nan
            if self._samples and root is not None and not math.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss} at {self._here()} on {self.comm.host}")
            self._open, self._loss = True, loss
        view = tensor._flat.grad
        if tensor.grad is None:
            view.array[...] = g
            tensor.grad = view
        else:
            tensor.grad.array += g

    def check(self) -> None:
        """An optimizer is about to make a step: only `step` lets it."""
        if not self._stepping:
            raise RuntimeError("the workers' optimizer is model.optimizer: call its step(), not that of the inner one")

    def open_microbatch(self) -> None:
        """A reducer is given a difference of parameters."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or set them to zero. Each step does so too: the next worker has its own."""
        self.inner.zero_grad(set_to_none)

    def step(self) -> None:
        """The present worker's inner step (none without samples), and after the last worker the outer step if due.

        Raises RuntimeError where the model was not called since the last step.
        """
        if not self._called:
            raise RuntimeError(f"{self._here()}: optimizer.step(), but the model was not called since the last one")
        worker = self.mine[self._k]
        self.hold(self._k)
        if self._samples:
            worker.trained |= {self.numbers[id(t)] for f in self.flats for t in f.tensors if t.grad is not None}
            worker.samples += self._samples
            worker.loss += self._samples * (self._loss if self._open else math.nan)
            self._step(self.inner)
        else:
            self.buffers.load(self._before)  # what an empty batch has made of them may be NaN
        self.zero_grad()
        self._called = self._open = False
        self._consolidated = None
        self._k += 1
        if self._k == len(self.block):
            self._k = 0
            self.steps += 1
            self.since += 1
            self.comm.waits.steps += 1
            self.synchronized = True
            if self.since == self.sync_every:
                self.synchronize()

    def _step(self, optimizer: Optimizer) -> None:
        self._stepping = True
        optimizer.step()
        self._stepping = False

    @property
    def in_step(self) -> bool:
        """Whether a step has begun that not all workers of this rank have made."""
        return bool(self._k or self._called)

    # -- rounds ----------------------------------------------------------------------------------

    def hold(self, k: int | None) -> None:
        """From now on the module has the parameters and buffers of the rank's k-th worker, or (None) the start's."""
        if k == self.held:
            return
        if self.held is not None:
            self.mine[self.held].states = self.inner._flat_states
        if k is None:
            self.buffers.leave()
        else:
            worker = self.mine[k]
            if worker.fresh:
                for mine, start in zip(worker.data, self.start, strict=True):
                    mine[...] = start
                worker.fresh = False
            self.inner._flat_states = worker.states
            self.buffers.enter(k)
        for flat, data in zip(self.flats, self.start if k is None else self.mine[k].data, strict=True):
            flat.put_data(data)
        self.held = k

    @property
    def held_worker(self) -> Worker:
        """The worker whose parameters the module has."""
        assert self.held is not None
        return self.mine[self.held]

    def synchronize(self) -> None:
        """Make the outer step now, where steps have been made since the last; all ranks call this after the same step.

        At the end of training, say. Raises RuntimeError in the middle of a step.
        """
        if self.in_step:
            raise RuntimeError(f"{self._here()}: workers can meet only when all of them have made their step")
        if not self.since:
            return
        self._add_differences()
        wait_for_all(self.reducers)
        self.hold(None)
        self.loss, _ = self.buffers.put(self.reducers[0].header)()
        for reducer in self.reducers:
            for t, used in zip(reducer.flat.tensors, reducer.used.tolist(), strict=True):
                t.grad = t._flat.grad if used else None
        self._step(self.outer)
        self.zero_grad()
        self.since = 0
        self._begin_round()

    def _begin_round(self) -> None:
        self.buffers.remember()
        for worker in self.mine:
            worker.begin_round()

    def restart(self) -> None:
        """What the next round starts from has changed; in the middle of one the workers keep what they have."""
        made = self.buffers.made
        self.buffers.remember()
        self.buffers.made = made

    def _add_differences(self) -> None:
        """The mean of start - parameters over all workers with samples becomes the gradient, on every rank."""
        for k, worker in enumerate(self.mine):
            self.hold(k)
            weight = float(worker.samples > 0)
            for reducer in self.reducers:
                reducer.begin(k, weight)
            loss = worker.loss / worker.samples if weight else math.nan
            header = self.buffers.take(k, self.block[k] == 0, weight, loss, False, self.reducers[0].message)
            for i, (reducer, start, data) in enumerate(zip(self.reducers, self.start, worker.data, strict=True)):
                reducer.add_header(header[: 1 if i else len(header)])
                for t in reducer.flat.tensors:
                    if self.numbers[id(t)] in worker.trained:
                        where = t._flat.slice
                        reducer.add(t, start[where] - data[where])
                reducer.end()

    # -- state -----------------------------------------------------------------------------------

    def consolidate_state_dict(self, to: int = 0) -> None:
        """Collect the state of all workers on rank `to` for `state_dict()`; all ranks call this, between two steps."""
        if self.in_step:
            raise RuntimeError(f"{self._here()}: the state can be collected only between two steps")
        states = collect_states(self, to)
        self.hold(None)
        self._consolidated = None
        if self.comm.rank == to:
            self._consolidated = {
                "steps": self.steps,
                "since": self.since,
                "loss": self.loss,
                "param_groups": self.inner.state_dict()["param_groups"],
                "outer": self.outer.state_dict(),
                "workers": states,
            }

    def state_dict(self) -> dict[str, Any]:
        """The state of the outer optimizer and of all workers. Raises RuntimeError unless it was collected here.

        {"steps", "since" (the last outer step), "loss", "param_groups" (the inner optimizer's), "outer": its state
        dict, "workers": of each {"state": that of the inner optimizer} and, in the middle of a round, "parameters",
        "buffers", "trained", "samples", "loss"}. The parameters of the round's start are in the model's state dict.
        """
        if self._consolidated is None:
            raise RuntimeError(
                f"rank {self.comm.rank} has not got the state of all workers: after the last step call "
                "consolidate_state_dict() on all ranks, then state_dict() on rank 0"
            )
        return self._consolidated

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the outer optimizer's state and that of this rank's workers; every rank loads the same.

        Raises ValueError, and changes nothing, for another number of workers or other shapes.
        """
        saved = state_dict["workers"]
        if len(saved) != self.microbatches:
            raise ValueError(f"the saved state is of {len(saved)} workers, here are {self.microbatches}")
        self.hold(None)
        self.outer.load_state_dict(state_dict["outer"])
        self.steps, self.since, self.loss = state_dict["steps"], state_dict["since"], state_dict["loss"]
        self._k, self._called, self._open, self._consolidated = 0, False, False, None
        self._begin_round()
        for k, j in enumerate(self.block):
            self.hold(k)
            load_state(self, saved[j], state_dict["param_groups"])
        self.hold(None)
        if not self.since:
            self._begin_round()
