"""dtrain: data-parallel training on MPI and Slurm clusters, with the same bits at any number of ranks.

One batch flows through the packages in this order, which is also a good order to read them in:

    data      a DataLoader gives this rank its microbatches of the step's global batch
    nn, ops   a Module's forward calls ops, functions that return a value and its pullbacks
    autograd  loss.backward() walks back; a gradient is final when its last consumer has contributed
    parallel  DistributedDataParallel sums the microbatches' gradients along one fixed tree
    comm      carries what the tree needs between ranks
    optim     every rank makes the same step with the same bits

`metrics` counts, over ranks, how good the predictions are. `backend` lies below all of them (arrays, kernels,
random streams), above are `checkpoint` (the state of a run on disk), `hub` and `models` (what others have published)
and `launch` (ranks, threads, failure). `examples/one_batch.py` walks this way with one batch. Importing dtrain
imports neither mpi4py nor cupy.
"""

from __future__ import annotations

import builtins

import numpy as _np

from dtrain import autograd, checkpoint, comm, data, hub, metrics, models, nn, optim, parallel
from dtrain.autograd import Tensor, device, enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from dtrain.backend.random import manual_seed
from dtrain.hub.serialization import load, save
from dtrain.ops.activation import relu, sigmoid, softmax, tanh
from dtrain.ops.arithmetic import (
    abs, add, clamp, cos, div, eq, exp, ge, gt, isfinite, isnan, le, log, log1p, logical_and, logical_not, logical_or,
    lt, maximum, minimum, mul, ne, neg, pow, sign, sin, sqrt, square, sub, where,
)  # fmt: skip
from dtrain.ops.creation import (
    arange, as_tensor, empty, empty_like, eye, from_numpy, full, full_like, linspace, ones, ones_like, rand, rand_like,
    randint, randn, randn_like, randperm, tensor, zeros, zeros_like,
)  # fmt: skip
from dtrain.ops.linear import matmul
from dtrain.ops.reduction import all, amax, amin, any, argmax, argmin, logsumexp, max, mean, min, std, sum, var
from dtrain.ops.shape import (
    broadcast_to, cat, chunk, clone, concat, flatten, permute, reshape, split, squeeze, stack, transpose, unbind,
    unsqueeze,
)  # fmt: skip
from dtrain.parallel import DistributedDataParallel, ZeroRedundancyOptimizer

__version__ = "0.1.0"

float16 = half = _np.dtype(_np.float16)
float32 = float = _np.dtype(_np.float32)
float64 = double = _np.dtype(_np.float64)
uint8 = _np.dtype(_np.uint8)
int8 = _np.dtype(_np.int8)
int16 = short = _np.dtype(_np.int16)
int32 = int = _np.dtype(_np.int32)
int64 = long = _np.dtype(_np.int64)
bool = _np.dtype(_np.bool_)


def is_tensor(x: object) -> builtins.bool:
    """Whether x is a Tensor."""
    return isinstance(x, Tensor)


__all__ = [name for name in globals() if not name.startswith("_") and name not in ("annotations", "builtins")]
