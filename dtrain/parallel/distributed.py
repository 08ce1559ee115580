"""DistributedDataParallel: the user's module, with gradients that are those of the global batch."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakMethod

import numpy as np

from dtrain.autograd import as_one_call, backward_root, is_grad_enabled, on_backward_end
from dtrain.backend import Array, capture, on_gpu
from dtrain.backend.random import key
from dtrain.comm import Communicator, RankLost, SingleCommunicator
from dtrain.data.sampler import microbatch_block
from dtrain.nn.flat import Flat
from dtrain.nn.module import Module
from dtrain.parallel.buffers import Buffers
from dtrain.parallel.coupled import Coupled
from dtrain.parallel.gradients import Gradients
from dtrain.parallel.hooks.bucket import GradBucket
from dtrain.parallel.hooks.feedback import ErrorFeedback
from dtrain.parallel.hooks.reducer import Hook, HookReducer
from dtrain.parallel.ledger import Ledger
from dtrain.parallel.outcome import Outcome
from dtrain.parallel.pytorch import check_options
from dtrain.parallel.reducer import Reducer, wait_for_all
from dtrain.parallel.reducers import Reducers
from dtrain.parallel.replicas import check_replicas
from dtrain.parallel.wrapper import Wrapper, given

__all__ = ["DistributedDataParallel"]

_SPECIAL = "no_sync(), a ledger, and jobs that survive ask for more than a captured step can do"


class DistributedDataParallel(Wrapper):
    """Wraps a module so that `backward()` leaves the gradient of the mean loss over the global batch.

    A step is M = `microbatches` microbatches (default: comm.microbatches, which is the number of ranks
    unless a job says otherwise), of which this rank owns a block of consecutive ones. For each of
    them call the model and `loss.backward()`; after its last one the gradients of all ranks have been
    summed, along a tree that depends on M alone, so their bits do not depend on the number of ranks.

        for x, y in loader:                      # this rank's microbatches
            loss = F.cross_entropy(model(x), y)  # the mean over the microbatch
            loss.backward()
            if model.synchronized:               # all microbatches of the step are in
                optimizer.step()
                optimizer.zero_grad()

    A microbatch counts by its number of samples (the first dimension of the first tensor that the model
    is called with; `set_weight` for others). Buffers, such as running statistics, become the mean of
    what the microbatches made of them. Parameters that no microbatch used keep `grad=None` and are
    named once on standard error. `state_dict()` has the module's own keys. With nn.SyncBatchNorm a rank
    computes its microbatches of a step together, see there; `model.backward(g)` then returns None.

    comm: the job's communicator (None: one process). overlap: whether buckets travel on a helper thread
    while backward goes on (default: where there are several hosts; within one, memory is shared and there is
    nothing to hide); the bits are the same. exact=False is the fast mode: gradients are summed by MPI's own
    Allreduce in its own order, and the bits depend on the number of ranks; a line on standard error says so.
    ledger=N: every N steps the ranks compare, by hash, gradients after their reduction and, before the next
    step, parameters and buffers; the first difference raises Divergence, which names rank and element.

    PyTorch's find_unused_parameters, static_graph, gradient_as_bucket_view, bucket_cap_mb, device_ids and
    output_device may be passed and change nothing: unused parameters are always found, which parameters are used,
    shared, frozen or trained may change from step to step, and `.grad` always lies in the buckets.

    Raises ValueError for more ranks than microbatches and RuntimeError where the ranks' modules differ,
    naming the first rank and parameter; both on every rank. FloatingPointError for a loss that is NaN or
    infinite: in backward(), or, on a GPU, which nothing waits for, where `loss` is read and at the next step's
    end at the latest. `optimizer.step()` raises RuntimeError while microbatches of a step are missing.
    """

    def __init__(
        self,
        module: Module,
        comm: Communicator | None = None,
        microbatches: int | None = None,
        *,
        overlap: bool | None = None,
        exact: bool = True,
        ledger: int | None = None,
        **pytorch: Any,
    ) -> None:
        super().__init__(module)
        check_options(pytorch)
        if not isinstance(comm, Communicator | None):
            raise TypeError(f"comm must be a communicator, as launch.Job().comm is, got {comm!r}")
        self.comm: Communicator = SingleCommunicator() if comm is None else comm
        self.microbatches = self.comm.microbatches if microbatches is None else microbatches
        self.block = microbatch_block(self.comm.rank, self.comm.size, self.microbatches)
        if not any(p.requires_grad for p in module.parameters()):
            raise ValueError(f"no parameter of {type(module).__name__} requires a gradient: there is nothing to train")
        check_replicas(module, self.comm, microbatches=self.microbatches, ledger=ledger)
        self.comm.settle_microbatches(self.microbatches)
        beside = self.comm.local_size < self.comm.size or self.comm.nccl is not None
        self.overlap = beside if overlap is None else overlap
        self.exact = exact
        self.ledger = None if ledger is None else Ledger(self.comm, ledger)
        if not exact and self.comm.rank == 0:
            print(
                "dtrain: fast mode: gradients are summed by the communicator's own all-reduce; "
                "the results depend on the number of ranks",
                file=sys.stderr,
            )
        self._outcome = Outcome.known(math.nan)  # of the last step
        self.synchronized = False  #: whether the last backward completed a step
        self._step = 0
        self._done = 0  # microbatches of this step that this rank has finished
        self._no_sync = False  # inside no_sync()
        self._postponed = False  # this step began in there
        self._waiting = 0  # steps whose gradients wait to be summed with those of a later one
        self._called = False  # the model was called, and backward is to come
        self._open = False  # backward is under way
        self._samples = 0
        self._has_loss = False  # the microbatch's backward began at one number
        self._weight: float | None = None
        self._origin: tuple[int, int] | None = None
        self._parameters = list(module.named_parameters())
        self._reducers = Reducers([p for _, p in self._parameters], self._reducer)
        self._hook: Hook | None = None
        coupled = Coupled(self) if self.microbatches > 1 else None
        self._may_couple = coupled if coupled and coupled.layers else None
        self._coupled: Coupled | None = None  # in a step whose microbatches depend on each other
        self._gradients = Gradients(self._parameters, say=self.comm.rank == 0)
        self._ordered = False  # gradients lie in the order of their arrival
        self._generation, self._stale = self.comm.generation, False
        self._phase = WeakMethod(self._where)
        self.comm.models.add(self)
        key.move_to(0, self.block.start)

    @property
    def loss(self) -> float:
        """The mean loss over the last step's global batch."""
        return self._outcome.loss

    @property
    def stopping(self) -> bool:
        """Whether any rank was asked to stop before the last step's end; equal on all ranks."""
        return self._outcome.stopping

    @property
    def position(self) -> dict[str, Any]:
        """Where the run is: the steps done and the last one's loss. A checkpoint keeps it and sets it.

        Setting it in the middle of a step, or reading it while gradients wait to be exchanged, raises RuntimeError.
        """
        if self._waiting:
            raise RuntimeError(
                f"the gradients of {self._waiting} steps wait to be exchanged and would be lost: write checkpoints "
                "where model.synchronized is true"
            )
        return {"steps": self._step, "loss": self.loss}

    @position.setter
    def position(self, position: Mapping[str, Any]) -> None:
        if self._called or self._done or self._waiting:
            raise RuntimeError(
                f"the position cannot change in the middle of step {self._step}; finish its microbatches"
            )
        self._step, self._outcome = position["steps"], Outcome.known(position["loss"])
        key.move_to(self._step, self.block.start)

    @property
    def in_step(self) -> bool:
        """Whether a step has begun that is not done. Its beginning is gone where no_sync() has added up others."""
        return bool(self._called or self._done) and not self._waiting

    def rewind(self) -> int:
        """The microbatch of the present step that was under way when this rank failed. The buffers become those of the
        step's beginning, as the parameters still are."""
        self._buffers.restore()
        return min(self.block.start + self._done, self.block.stop - 1)

    def replay(self, microbatch: int | None, over: Callable[[], None]) -> None:
        """Call `over` when the step that comes has its gradients; or run one microbatch of it alone, and call it then.

        Raises ValueError for a microbatch that is not this rank's, or depends on the others (SyncBatchNorm).
        """
        if microbatch is None:
            finish = self._finish_step
            self._finish_step = lambda: (finish(), over())[0]  # type: ignore[method-assign, func-returns-value]
            return
        if microbatch not in self.block or self._may_couple:
            raise ValueError(f"microbatch {microbatch} of {self.microbatches} cannot run alone; replay the whole step")
        self._begin_step()
        self._done = microbatch - self.block.start
        self._close_microbatch = over  # type: ignore[method-assign]

    def set_weight(self, weight: float) -> None:
        """Count the microbatch whose backward comes next as `weight` (of tokens, say) instead of its samples."""
        if not weight >= 0 or math.isinf(weight):
            raise ValueError(f"a microbatch's weight must be a number of at least 0, got {weight}")
        self._weight = weight

    def register_comm_hook(self, state: Any, hook: Callable[[Any, GradBucket], Array]) -> None:
        """From the next step on `hook(state, bucket)` makes the sum of the gradients; see `dtrain.parallel.hooks`.

        Every rank registers the same hook. Each of the rank's M / P microbatches of a step then has gradients of its
        own in memory, and all gradients travel in messages, within a host too, and from a GPU by way of the host's
        memory, where hooks work. Header (loss, buffers) and bookkeeping travel uncompressed. Raises RuntimeError for
        a second hook or in the middle of a step, TypeError for what is no function, ValueError in fast mode.
        """
        if not callable(hook):
            raise TypeError(f"hook must be a function of a state and a bucket, got {hook!r}")
        if self._hook is not None:
            raise RuntimeError("a communication hook is registered already; a model has one")
        if self._done or self._called or self._waiting:
            raise RuntimeError(
                f"a communication hook is registered in the middle of step {self._step}: do it before the "
                "model is called, or where model.synchronized is true"
            )
        if not self.exact:
            raise ValueError(
                "communication hooks work on microbatches, which fast mode does not know: leave exact=True"
            )
        if isinstance(state, ErrorFeedback):
            state.attach(self.comm, self.microbatches)
        self._hook = functools.partial(hook, state)
        self._reducers.clear()  # the next step makes others

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """`with model.no_sync():` steps whose gradients are added up and not yet exchanged, as in PyTorch.

        The next step outside sums all of them, S together with its own: `.grad` becomes S times the mean over all
        their samples, which is the sum of the steps' mean gradients where the steps are equally large. Until then
        `.grad` is as it was and `model.synchronized` false. Buffers go on from step to step, in each microbatch by
        itself, and meet when the gradients do. Counts where `backward()` is called, for all microbatches of a step
        alike. A rank keeps a gradient for each of its M / P microbatches; more microbatches in a step, or a larger
        batch, do the same as S steps with less memory.

        Raises RuntimeError (in `backward()`) where the microbatches of a step, or the ranks, differ in this, and where
        the set of trained parameters changes in between.
        """
        before, self._no_sync = self._no_sync, True
        try:
            yield
        finally:
            self._no_sync = before

    # -- a microbatch ----------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's output. With gradients on, the backward pass to come is that of the present microbatch."""
        if not is_grad_enabled():
            return self._without_gradients(*args, **kwargs)
        self._enter(args, kwargs)
        if self._coupled is not None:
            capture.refuse("SyncBatchNorm")
            return self._coupled.forward(self._done, args, kwargs)
        if self._is_special():
            capture.refuse(_SPECIAL)
        return self.module(*args, **kwargs)

    @as_one_call
    def _enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A microbatch begins, with what the model is called with."""
        if self._done == 0 and not self._called:
            self._begin_step()
        self._called = True
        key.move_to(self._step, self.block.start + self._done)
        record = capture.present()
        if record is not None:
            place = self.block.start + self._done
            record.effect(lambda: key.move_to(self._step, place))
        self._samples, self._origin = given(args, kwargs)
        if self._coupled is not None:
            self._check_origin()
        else:
            self._buffers.enter(self._done)

    def _is_special(self) -> bool:
        return self._no_sync or self.ledger is not None or self.comm.survives

    def _without_gradients(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluation. Running statistics stay as they are: this rank alone sees this batch."""
        buffers = Buffers(self.module, self.microbatches) if self.module.training else None
        if buffers is not None:
            capture.refuse("a training model is called without gradients")
        output = self.module(*args, **kwargs)
        if buffers is not None:
            buffers.restore()
        return output

    def _begin_step(self) -> None:
        """Before the first microbatch of a step: flat gradients as the parameters are now."""
        self.synchronized = False
        self.comm.waits.phase = self._phase
        self._find_place()
        if self.ledger is not None and not self._waiting and self.ledger.is_due(self._step):
            after = [("parameters after the optimizer", name, p.array) for name, p in self._parameters]
            after += [("buffers", name, b.array) for name, b in self.module.named_buffers()]
            with suppress(RankLost):  # the end of the step takes it back
                self.ledger.compare(self._step - 1, after)
        if self._stale or not self._reducers.are_current():
            self._settle_flats()
        if not self._waiting:
            self._buffers.remember()
        self._coupled = self._may_couple if self._may_couple and self._may_couple.is_needed() else None
        if self._coupled is not None:
            self._coupled.begin(self._step, self._buffers, self._reducers)
        elif self._may_couple is not None:
            self._reducers.take_gradients()

    def _settle_flats(self) -> None:
        """Make the reducers again if parameters have moved, or others are trained than before."""
        flats = self._reducers.flats()
        if self._stale or flats != [reducer.flat for reducer in self._reducers]:
            if self._waiting:
                raise RuntimeError(
                    f"step {self._step}: the parameters that are trained, or their groups, have changed while "
                    "gradients wait to be exchanged; call backward() outside of no_sync() before that"
                )
            self._build(flats)

    def _build(self, flats: list[Flat]) -> None:
        self._buffers = Buffers(self.module, self.microbatches, synced=self._may_couple is not None)
        self._stale = False
        self._reducers.build(flats)

    def send_buckets(self) -> None:
        """A reducer has a complete bucket."""
        self._reducers.send_buckets()

    def _reducer(self, flat: Flat, first: bool, last: bool) -> Reducer:
        header = self._buffers.size if first else 1
        if self._hook is None:
            return Reducer(self, self.comm, flat, self.microbatches, header, self.exact, self.overlap)
        names = {id(p): name for name, p in self._parameters}
        return HookReducer(self, self.comm, flat, self.microbatches, header, self.overlap, self._hook, names, last)

    def open_microbatch(self) -> None:
        """A gradient arrives: with the first one, the microbatch's backward begins."""
        if self._open:
            return
        if not self._called:
            raise RuntimeError(
                f"{self._here()}: a parameter gets a gradient, but the model was not called in this microbatch; call "
                "the wrapped model, and backward() once for each microbatch, on the sum of its losses"
            )
        self._check_origin()
        weight = float(self._samples if self._weight is None else self._weight)
        self._weight = None
        root = backward_root()
        loss: Any = None
        self._has_loss = root is not None and root.numel() == 1
        if root is not None and self._has_loss:
            loss = root.array.reshape(()) if on_gpu(root.array) else root.item()
            if weight and not on_gpu(loss) and not math.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss} at {self._here()} on {self.comm.host}")
        if self._done and self._no_sync != self._postponed:
            raise RuntimeError(
                f"{self._here()}: a step is inside or outside of no_sync() as a whole, in all of its microbatches; use "
                f"as many ranks as microbatches, or leave no_sync() out: the {len(self.block)} microbatches of a rank "
                "accumulate gradients by themselves"
            )
        self._postponed = self._no_sync
        if self._is_special():
            capture.refuse(_SPECIAL)
        self._open = True
        on_backward_end(self._close_microbatch)
        loss = math.nan if loss is None else loss
        if self._coupled is None:
            self.begin_microbatch(self._done, weight, loss, scale=weight)
        else:
            self._coupled.close(self._done, weight, loss, empty=not weight and not self._samples, root=root)

    def begin_microbatch(self, k: int, weight: float, loss: Any, scale: float | None) -> None:
        """The gradients of the rank's k-th microbatch come next, and are to be multiplied by `scale` (None: 1)."""
        if k == 0 and not self._postponed:
            self._gradients.keep(self._reducers)
        for reducer in self._reducers:
            reducer.begin(k, scale, self._postponed)
        first = self.block[k] == 0 and not self._postponed
        stop: Any = self.comm.stop_requested
        record = capture.present()
        if record is not None:
            stop, here = record.room("stop", [stop], np.float64)[0], record.rooms[-1][1]
            record.effect(lambda: here.__setitem__(0, self.comm.stop_requested))
        header = self._buffers.take(k, first, weight, loss, stop, self._reducers[0].message)
        self._reducers[0].add_header(header)
        for reducer in self._reducers[1:]:
            reducer.add_header(header[:1])

    def _here(self) -> str:
        microbatch = self.block.start + self._done
        return f"step {self._step}, microbatch {microbatch} of {self.microbatches}, rank {self.comm.rank}"

    def _check_origin(self) -> None:
        if self._origin not in (None, (self.block.start + self._done, self.microbatches)):
            raise RuntimeError(
                f"{self._here()}: the loader gave microbatch {self._origin[0]} of {self._origin[1]}; give the loader "
                "the same comm and microbatches as the model, call backward() once for each of its batches (on the sum "
                "of the losses), and finish a step before another loop begins"
            )

    def _close_microbatch(self) -> None:
        if self._coupled is None:
            for reducer in self._reducers:
                reducer.end()
            self._buffers.leave(keep=self._postponed)
        elif self._done == len(self.block) - 1:
            self._coupled.backward()
        self._open = self._called = False
        self._done += 1
        if self._done < len(self.block):
            key.move_to(self._step, self.block.start + self._done)
            return
        if self._postponed:
            self._buffers.go_on()
            self._waiting += 1
        elif not self._exchange():
            return
        self._done = 0
        self._count_step()
        record = capture.present()
        if record is not None:
            record.effect(functools.partial(self._count_again, self._outcome))

    def _count_step(self) -> None:
        self._step += 1
        self.comm.waits.steps += 1
        self.synchronized = not self._postponed
        key.move_to(self._step, self.block.start)

    def _count_again(self, captured: Outcome) -> None:
        """A captured step is made once more."""
        self._outcome = Outcome(captured.read, f"in step {self._step}", captured.check)
        self._count_step()

    def _exchange(self) -> bool:
        """Whether all ranks have the sums of the step. If not, ranks were lost, and it is as if it had not begun."""
        before = self._outcome
        done, orders = self.comm.attempt(self._take_sums)
        self._find_place()
        if not done:
            self._outcome = before
            self._take_back()
        elif orders is not None:
            self._order_by(orders)
        return done

    def _take_sums(self) -> list[list[int]] | None:
        wait_for_all(self._reducers)
        return self._finish_step()

    def _finish_step(self) -> list[list[int]] | None:
        """Loss, buffers and gradients are those of the step. Returns how gradients are to lie from now on, by reducer,
        after the first step: in the order in which they arrive, so that buckets fill early."""
        steps, self._waiting = self._waiting + 1, 0
        header = self._reducers[0].header
        if on_gpu(header) and capture.present() is None:
            self._outcome.look()  # what is wrong with the step before is said at this one's end at the latest
        read = self._buffers.put(header, steps)
        self._outcome = Outcome(read, f"in step {self._step}", check=on_gpu(header) and self._has_loss)
        if not on_gpu(header):
            self._outcome.look()
        if steps > 1 and self.microbatches > 1:  # the mean over all steps has been made of them
            for reducer in self._reducers:
                reducer.flat.grad *= reducer.flat.grad.dtype.type(steps)
        self._gradients.give(self._reducers, self._step)
        if self.ledger is not None and self.ledger.is_due(self._step + 1):
            flat = [(name, p._flat.grad.array) for name, p in self._parameters if p._sink is not None]
            self.ledger.compare(self._step, [("gradients after the reduction", *entry) for entry in flat])
        return None if self._ordered else self.comm.broadcast_object([reducer.order for reducer in self._reducers])

    def _order_by(self, orders: list[list[int]]) -> None:
        self._ordered = True
        if any(order != sorted(order) for order in orders):
            self._build(self._reducers.flats_in(orders))

    def _take_back(self) -> None:
        """All is as before the step, which the loader hands out again. Raises RankLost where that cannot be."""
        reason = (
            "the gradients of the steps before it, in no_sync(), are lost too" if self._waiting
            else "several models are trained" if len(self.comm.models) > 1
            else "its samples do not come from a DataLoader" if self._origin is None
            else ""
        )  # fmt: skip
        if reason:
            raise RankLost(
                f"ranks were lost in step {self._step}, and it cannot be done again: {reason}; "
                "start the job again from a checkpoint (python -m launch --restarts)"
            )
        self._buffers.restore()
        self._gradients.take_back(self._reducers)
        self._done = 0
        self.comm.redone += 1
        key.begin(self._step, self.block.start)

    def _find_place(self) -> None:
        """When ranks have been lost this one has other microbatches; the next step makes other reducers."""
        if self.comm.generation != self._generation:
            self._generation, self._stale = self.comm.generation, True
            self.block = microbatch_block(self.comm.rank, self.comm.size, self.microbatches)
            self._gradients.say = self.comm.rank == 0

    def _where(self) -> str:
        """Where this rank is, in words; a watchdog asks from another thread."""
        words = [f"{self._step} steps done"]
        if self._open or self._called or self._done:
            words = [f"step {self._step}, {self._done} of this rank's {len(self.block)} microbatches done"]
        names = {id(p): name for name, p in self._parameters}
        for reducer in self._reducers:
            if (summing := reducer.under_way()) is not None:
                bucket, tensors = summing
                words.append(f"summing {bucket} with the gradients of {', '.join(names[id(t)] for t in tensors)}")
        return "; ".join(words)

    def check_complete(self) -> None:
        """Before an optimizer's step: are all microbatches of this rank in?"""
        if self._waiting and not self._done:
            raise RuntimeError(
                f"optimizer.step() while the gradients of {self._waiting} steps wait to be exchanged: call it after a "
                "backward() outside of no_sync(), where model.synchronized is true"
            )
        if self._done or self._open:
            n = len(self.block)
            raise RuntimeError(
                f"optimizer.step() in the middle of step {self._step}: rank {self.comm.rank} has finished {self._done} "
                f"of its {n} microbatches, {n - self._done} are missing; call it only where model.synchronized is true"
            )
