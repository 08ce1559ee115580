"""DiLoCo: workers that train alone and meet every so many steps, for links that are slow."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from dtrain.autograd import is_grad_enabled
from dtrain.backend import capture
from dtrain.backend.random import key
from dtrain.comm import Communicator, SingleCommunicator
from dtrain.nn.module import IncompatibleKeys, Module
from dtrain.nn.norm import SyncBatchNorm
from dtrain.optim import LBFGS, SGD, Optimizer
from dtrain.parallel.buffers import Buffers
from dtrain.parallel.replicas import check_replicas
from dtrain.parallel.workers import Workers
from dtrain.parallel.wrapper import Wrapper, given
from dtrain.parallel.zero import ZeroRedundancyOptimizer

__all__ = ["DiLoCo"]


_OUTER = functools.partial(SGD, lr=0.7, momentum=0.9, nesterov=True)


class DiLoCo(Wrapper):
    """theta_j = start;  H times: theta_j = inner(theta_j);  start = outer(start, mean over j of start - theta_j)

    Distributed low-communication training (Douillard et al., arXiv:2311.08105), H = sync_every. The microbatches of a
    step (as many as `microbatches`; default: comm.microbatches) go to as many workers, each with parameters and a
    state of the inner optimizer of its own. A rank trains a block of workers one after another, so the bits do not
    depend on the number of ranks. Between two outer steps nothing is sent.

        inner = optim.AdamW(net.parameters(), lr=1e-3)
        model = DiLoCo(net, inner, job.comm, sync_every=50)
        optimizer = model.optimizer
        for x, y in loader:                      # this rank's microbatches, each the next worker's
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()                     # the worker's; every 50 steps, after the last worker, the outer one
            optimizer.zero_grad()
            if model.synchronized:               # all workers of this rank have made the step
                schedule.step()                  # of `inner`, whose options are those of all workers

    outer: makes the outer optimizer of parameters, for which the mean difference is the gradient. Default: SGD with
    lr=0.7 and Nesterov momentum 0.9, as in the paper; functools.partial(optim.SGD, lr=1.0) takes the mean of the
    workers' parameters (local SGD, arXiv:1805.09767).

    Workers count alike, as in the paper, whatever their samples; one that had none in a round does not count, and
    makes no step where it has none. Buffers become the start's plus the mean of the workers' changes, counters are
    those of worker 0. Without gradients (evaluation), and in `state_dict()`, the model is that of the last outer step;
    `optimizer.synchronize()` makes one at once, at the end of training say. A checkpoint takes the model and
    `model.optimizer`, and is exact between any two steps.

    Attributes: `loss`, the mean over workers of their mean losses in the last round; `synchronized`; `optimizer`.

    Raises on every rank: ValueError for more ranks than microbatches, `sync_every` below 1, SyncBatchNorm and an inner
    optimizer that has made steps; TypeError for one that is sharded and LBFGS; RuntimeError where ranks differ. Later a
    FloatingPointError for a loss that is NaN or infinite, RuntimeError where loader and model disagree about the
    microbatch and once ranks have been lost.
    """

    def __init__(
        self,
        module: Module,
        inner: Optimizer,
        comm: Communicator | None = None,
        microbatches: int | None = None,
        *,
        sync_every: int,
        outer: Callable[[list[dict[str, Any]]], Optimizer] = _OUTER,
    ) -> None:
        super().__init__(module)
        self.comm: Communicator = SingleCommunicator() if comm is None else comm
        self.microbatches = self.comm.microbatches if microbatches is None else microbatches
        if sync_every < 1:
            raise ValueError(f"workers meet every sync_every steps, at least 1; got {sync_every}")
        if not isinstance(inner, Optimizer) or isinstance(inner, ZeroRedundancyOptimizer):
            raise TypeError(
                "inner must be an optimizer of dtrain.optim that is not sharded: each worker has its own; "
                f"got {type(inner).__name__}"
            )
        if isinstance(inner, LBFGS):
            raise TypeError("inner must be an optimizer that calls no closure, got LBFGS; AdamW, say")
        if any(isinstance(layer, SyncBatchNorm) for layer in module.modules()):
            raise ValueError("workers train alone, and SyncBatchNorm needs all microbatches of a step: use BatchNorm")
        if inner.state_dict()["state"]:
            raise ValueError("the inner optimizer has made steps already; all workers start from a new one")
        check_replicas(module, self.comm, microbatches=self.microbatches, sync_every=sync_every)
        self.comm.settle_microbatches(self.microbatches)
        self.optimizer = Workers(module, inner, outer, self.comm, self.microbatches, sync_every)
        key.move_to(0, self.optimizer.block.start)

    @property
    def loss(self) -> float:
        """The mean over the workers of their mean losses in the last round."""
        return self.optimizer.loss

    @property
    def synchronized(self) -> bool:
        """Whether the last `optimizer.step()` completed a step: all workers of this rank have made it."""
        return self.optimizer.synchronized

    @property
    def in_step(self) -> bool:
        """Whether some of this rank's workers have made, or begun, a step that others have not."""
        return self.optimizer.in_step

    def state_dict(
        self, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """The module's state dict after the last outer step, under the module's own names."""
        self.optimizer.hold(None)
        return super().state_dict(destination, prefix, keep_vars)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Load what workers start from in the next round; every rank must load the same."""
        if assign:
            raise ValueError(
                "DiLoCo's parameters lie in memory of its own, into which load_state_dict copies: assign=False"
            )
        self.optimizer.hold(None)
        keys = super().load_state_dict(state_dict, strict)
        self.optimizer.restart()
        return keys

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the next worker's module; without gradients, of that of the last outer step."""
        capture.refuse("DiLoCo changes parameters beside the optimizer's steps")
        if is_grad_enabled():
            self.optimizer.begin(*given(args, kwargs))
            return self.module(*args, **kwargs)
        self.optimizer.hold(None)
        buffers = Buffers(self.module, self.microbatches) if self.module.training else None
        output = self.module(*args, **kwargs)
        if buffers is not None:
            buffers.restore()  # this rank alone sees this batch
        return output
