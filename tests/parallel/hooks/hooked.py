"""Communication hooks with settings that compress small modules; ways to train with them, and to call them alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import dtrain
from dtrain import nn
from dtrain.comm import Communicator
from dtrain.parallel.hooks import ErrorFeedback, GradBucket, default_hooks, powerSGD_hook, quantization_hooks, topk_hook
from dtrain.parallel.hooks.bucket import Place
from dtrain.parallel.hooks.collectives import MicrobatchMessages

__all__ = ["HOOKS", "STATEFUL", "call", "hooked", "random_leaves"]

_int8 = partial(quantization_hooks.quantization_perchannel_hook, bucket_size=16)
_power = powerSGD_hook.PowerSGDState

#: name -> makes (state, hook)
HOOKS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "allreduce": lambda: (None, default_hooks.allreduce_hook),
    "fp16": lambda: (None, default_hooks.fp16_compress_hook),
    "bf16": lambda: (None, default_hooks.bf16_compress_hook),
    "int8": lambda: (None, _int8),
    "int8 with feedback": lambda: (ErrorFeedback(), _int8),
    "topk": lambda: (topk_hook.TopKState(0.1, min_compression_rate=1), topk_hook.topk_hook),
    "PowerSGD": lambda: (_power(start_powerSGD_iter=1, min_compression_rate=1), powerSGD_hook.powerSGD_hook),
    "PowerSGD of rank 3": lambda: (_power(None, 3, 0, 1, warm_start=False), powerSGD_hook.powerSGD_hook),
}
STATEFUL = ["int8 with feedback", "topk", "PowerSGD"]


def hooked(name: str) -> Callable[..., dtrain.DistributedDataParallel]:
    """DistributedDataParallel with this hook, called as the class is; its state is `model.hook_state`."""

    def wrap(module: Any, comm: Communicator, microbatches: int, **options: Any) -> dtrain.DistributedDataParallel:
        model = dtrain.DistributedDataParallel(module, comm, microbatches, **options)
        state, hook = HOOKS[name]()
        model.register_comm_hook(state, hook)
        model.hook_state = state
        return model

    return wrap


def random_leaves(microbatches: int, n: int, seed: int = 0) -> list[np.ndarray]:
    """Gradients of very different sizes."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    return [(rng.standard_normal(n) * 10.0 ** rng.integers(-3, 2, n)).astype(np.float32) for _ in range(microbatches)]


def call(
    comm: Communicator, state: Any, hook: Any, leaves: Sequence[np.ndarray], shapes: Sequence[tuple[int, ...]]
) -> np.ndarray:
    """What the hook makes of all microbatches' leaves, in which the parameters p0, p1, ... lie one after another."""
    places, at = [], 0
    for i, shape in enumerate(shapes):
        size = int(np.prod(shape))
        places.append(Place(f"p{i}", nn.Parameter(dtrain.zeros(*shape)), slice(at, at + size)))
        at += size
    messages = MicrobatchMessages(comm, len(leaves))
    own = {j: leaves[j].copy() for j in messages.block}
    return hook(state, GradBucket(messages, comm, 0, True, places, own))
