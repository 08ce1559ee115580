"""Error feedback: what compression has lost of a gradient is added to the next step's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dtrain.autograd import Tensor
from dtrain.backend import Array
from dtrain.comm import Communicator
from dtrain.data.sampler import microbatch_block

__all__ = ["ErrorFeedback"]


class ErrorFeedback:
    """State of a hook that compresses; e_j = (g_j + e_j) - what was sent of it, for every microbatch number j.

    Kept for each parameter (by name) and microbatch, so that results do not depend on the number of ranks: M / P
    gradients' worth of memory on each rank. The error of a microbatch that has no gradient for a parameter waits.
    Source: Karimireddy et al., arXiv:1901.09847.

    A state belongs to one model. It goes into a checkpoint like an optimizer: all ranks call
    `consolidate_state_dict()`, then rank 0 `state_dict()`; `load_state_dict` takes the whole state on any number
    of ranks of a run with the same M, before or after `register_comm_hook`.

    Raises RuntimeError when ranks have been lost, and with them their errors: resume from a checkpoint.
    """

    def __init__(self, use_error_feedback: bool = True) -> None:
        self.use_error_feedback = use_error_feedback
        self.iter = 0  #: steps done
        self._errors: dict[str, dict[int, Array]] = {}
        self._comm: Communicator | None = None
        self._consolidated: dict[str, Any] | None = None

    def attach(self, comm: Communicator, microbatches: int) -> None:
        """The model that the hook is registered with has these ranks and M. RuntimeError for a second model."""
        if self._comm is not None:
            raise RuntimeError(f"this {type(self).__name__} is the state of another model; make one for each")
        self._comm, self._microbatches, self._generation = comm, microbatches, comm.generation
        self._block = microbatch_block(comm.rank, comm.size, microbatches)
        self._keep_own()

    # -- for hooks -------------------------------------------------------------------------------

    def with_error(self, name: str, microbatch: int, gradient: Array) -> Array | None:
        """g_j + e_j, a new array; None where the microbatch has no gradient: nothing is to be sent, e_j waits."""
        self._check_generation()
        if not gradient.any():
            return None
        return gradient + self._errors.get(name, {}).get(microbatch, 0)

    def keep(self, name: str, microbatch: int, error: Array) -> None:
        """What was not sent of the last `with_error`; the array is kept."""
        if self.use_error_feedback:
            self._consolidated = None
            self._errors.setdefault(name, {})[microbatch] = error

    def finish(self, last: bool) -> None:
        """A bucket is done; last: the last one of the step."""
        self._check_generation()
        if last:
            self._consolidated = None
            self.iter += 1

    def _check_generation(self) -> None:
        if self._comm is not None and self._comm.generation != self._generation:
            raise RuntimeError(
                f"ranks have been lost, and with them their part of {type(self).__name__}: the gradients' errors. "
                "Resume from a checkpoint that holds the state (make a new model and state)"
            )

    # -- checkpoints -----------------------------------------------------------------------------

    def consolidate_state_dict(self, to: int = 0) -> None:
        """Collect the errors of all microbatches on rank `to` for `state_dict()`; all ranks call this."""
        self._check_generation()
        comm, mine = self._comm, self._errors
        names = sorted(mine) if comm is None else sorted(set().union(*comm.all_gather_object(list(mine))))
        whole = {}
        for name in names:
            errors = mine[name] if comm is None else self._collect(comm, name, to)
            if errors:
                zero = np.zeros_like(next(iter(errors.values())))
                m = max(errors) + 1 if comm is None else self._microbatches
                whole[name] = Tensor(np.stack([errors.get(j, zero) for j in range(m)]))
        self._consolidated = {"iter": self.iter, "errors": whole} if comm is None or comm.rank == to else None

    def _collect(self, comm: Communicator, name: str, to: int) -> dict[int, Array]:
        """All microbatches' errors of a parameter, on rank `to`; nothing elsewhere."""
        own = self._errors.get(name, {})
        numbers = comm.all_gather_object([(j, error.size, error.dtype.str) for j, error in own.items()])
        _, size, dtype = next(iter(sum(numbers, [])))
        send = np.concatenate([np.empty(0, dtype), *own.values()])
        received = comm.all_to_all(
            send,
            [send.size if rank == to else 0 for rank in range(comm.size)],
            [len(theirs) * size if comm.rank == to else 0 for theirs in numbers],
        )
        order = [j for theirs in numbers for j, _, _ in theirs]
        return dict(zip(order, received.reshape(-1, size), strict=False))

    def state_dict(self) -> dict[str, Any]:
        """{"iter": steps done, "errors": {parameter: (M, n)}}. RuntimeError unless it was collected on this rank."""
        if self._comm is None or self._comm.size == 1:
            self.consolidate_state_dict()
        if self._consolidated is None:
            raise RuntimeError(
                f"rank {self._comm.rank if self._comm else 0} has not got the whole {type(self).__name__}: after the "
                "last step call consolidate_state_dict() on all ranks, then state_dict() on rank 0"
            )
        return self._consolidated

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a whole state. Raises ValueError if it was made with another number of microbatches."""
        self._consolidated = None
        self.iter = state_dict["iter"]
        self._errors = {
            name: {j: np.array(error) for j, error in enumerate(value.numpy() if isinstance(value, Tensor) else value)}
            for name, value in state_dict["errors"].items()
        }
        self._keep_own()

    def _keep_own(self) -> None:
        """Of loaded errors those of this rank's microbatches, once they are known."""
        if self._comm is None:
            return
        for name, errors in self._errors.items():
            if len(errors) != self._microbatches:
                raise ValueError(
                    f"the errors of {name} are those of {len(errors)} microbatches, and the model has "
                    f"{self._microbatches}; go on with as many microbatches as before"
                )
            self._errors[name] = {j: errors[j] for j in self._block}
