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

from dtrain import (
    amp,
    autograd,
    checkpoint,
    comm,
    cuda,
    data,
    func,
    hub,
    linalg,
    metrics,
    models,
    nn,
    optim,
    parallel,
    special,
    utils,
)
from dtrain.autograd import Tensor, device, enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled
from dtrain.amp import autocast, get_autocast_dtype, is_autocast_available, is_autocast_enabled
from dtrain.backend.halves import bfloat16
from dtrain.backend.precision import get_float32_matmul_precision, set_float32_matmul_precision
from dtrain.backend.random import Generator, manual_seed
from dtrain.captured import capture
from dtrain.hub.serialization import load, save
from dtrain.ops.activation import celu, log_softmax, relu, selu, sigmoid, softmax, tanh
from dtrain.ops.arithmetic import (
    abs, absolute, add, clamp, clamp_max, clamp_min, clip, cos, div, divide, exp, log, log1p, maximum, minimum, mul,
    multiply, neg, negative, pow, sign, sin, sqrt, square, sub, subtract, true_divide, where,
)  # fmt: skip
from dtrain.ops.binary import (
    addcdiv, addcmul, arctan2, atan2, copysign, float_power, floor_divide, fmax, fmin, fmod, gcd, heaviside, hypot,
    lcm, ldexp, lerp, logaddexp, logaddexp2, nextafter, remainder, rsub, xlog1py, xlogy,
)  # fmt: skip
from dtrain.ops.comparison import (
    allclose, bitwise_and, bitwise_left_shift, bitwise_not, bitwise_or, bitwise_right_shift, bitwise_xor, eq, equal,
    ge, greater, greater_equal, gt, isclose, isfinite, isin, isnan, le, less, less_equal, logical_and, logical_not,
    logical_or, logical_xor, lt, ne, not_equal,
)  # fmt: skip
from dtrain.ops.conv import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from dtrain.ops.creation import (
    arange, as_tensor, empty, empty_like, eye, fill, from_numpy, full, full_like, linspace, logspace, ones, ones_like,
    rand, rand_like, randint, randint_like, randn, randn_like, randperm, scalar_tensor, tensor, zeros, zeros_like,
)  # fmt: skip
from dtrain.ops.draws import get_rng_state, set_rng_state
from dtrain.ops.elementwise import (
    acos, acosh, angle, arccos, arccosh, arcsin, arcsinh, arctan, arctanh, asin, asinh, atan, atanh, ceil, cosh,
    deg2rad, exp2, expm1, fix, floor, frac, frexp, isinf, isneginf, isposinf, isreal, log10, log2, nan_to_num,
    positive, rad2deg, reciprocal, round, rsqrt, sgn, signbit, sinc, sinh, tan, trunc,
)  # fmt: skip
from dtrain.ops.linear import bilinear, matmul
from dtrain.ops.norm import layer_norm, rms_norm
from dtrain.ops.piecewise import hardshrink, prelu, rrelu, threshold
from dtrain.ops.reduction import all, amax, amin, any, argmax, argmin, logsumexp, max, mean, min, std, sum, var
from dtrain.ops.counting import (
    bincount, bucketize, histc, histogram, histogramdd, searchsorted, unique, unique_consecutive,
)  # fmt: skip
from dtrain.ops.decompositions import (
    cholesky, det, inverse, logdet, matrix_power, slogdet,
)  # fmt: skip
from dtrain.ops.decompositions import qr_some as qr
from dtrain.ops.decompositions import svd_usv as svd
from dtrain.ops.distances import cdist, cosine_similarity, pairwise_distance, pdist
from dtrain.ops.dropout import alpha_dropout, dropout, feature_alpha_dropout
from dtrain.ops.group_norm import group_norm
from dtrain.ops.indexing import (
    argwhere, count_nonzero, gather, index_select, masked_select, narrow, nonzero, nonzero_static, select, take,
    take_along_dim, unravel_index,
)  # fmt: skip
from dtrain.ops.products import (
    addbmm, addmm, addmv, addr, baddbmm, bmm, chain_matmul, cross, dot, einsum, ger, inner, kron, mm, mv, outer,
    tensordot, vdot,
)  # fmt: skip
from dtrain.ops.diagonals import (
    diag, diag_embed, diagflat, diagonal, trace, tril, tril_indices, triu, triu_indices, vander,
)  # fmt: skip
from dtrain.ops.rearranging import (
    adjoint, atleast_1d, atleast_2d, atleast_3d, block_diag, broadcast_shapes, broadcast_tensors, cartesian_prod,
    column_stack, combinations, concatenate, dsplit, dstack, flip, fliplr, flipud, hsplit, hstack, meshgrid, moveaxis,
    movedim, ravel, repeat_interleave, roll, rot90, row_stack, swapaxes, swapdims, t, tensor_split, tile, unflatten,
    unsafe_chunk, unsafe_split, vsplit, vstack,
)  # fmt: skip
from dtrain.ops.distributions import bernoulli, multinomial, normal
from dtrain.ops.max_pooling import adaptive_max_pool1d_with_indices as adaptive_max_pool1d
from dtrain.ops.max_pooling import max_pool1d, max_pool2d, max_pool3d
from dtrain.ops.pooling import adaptive_avg_pool1d, avg_pool1d
from dtrain.ops.padding import constant_pad_nd
from dtrain.ops.properties import (
    can_cast, conj, conj_physical, detach, finfo, get_default_dtype, iinfo, is_complex, is_conj, is_floating_point,
    is_neg, is_nonzero, is_same_size, is_signed, numel, promote_types, real, resolve_conj, resolve_neg, result_type,
)  # fmt: skip
from dtrain.ops.scan import (
    cummax, cummin, cumprod, cumsum, cumulative_trapezoid, diff, gradient, logcumsumexp, trapezoid, trapz,
)  # fmt: skip
from dtrain.ops.scatter import (
    diagonal_scatter, index_add, index_copy, index_fill, index_put, index_reduce, masked_fill, masked_scatter, put,
    scatter, scatter_add, scatter_reduce, select_scatter, slice_scatter,
)  # fmt: skip
from dtrain.ops.solvers import cholesky_inverse, cholesky_solve, matrix_exp, pinverse
from dtrain.ops.sorting import (
    argsort, kthvalue, median, mode, msort, nanmedian, nanquantile, quantile, sort, topk,
)  # fmt: skip
from dtrain.ops.special import (
    digamma, erf, erfc, erfinv, i0, lgamma, logit, mvlgamma, polygamma,
)  # fmt: skip
from dtrain.ops.statistics import (
    aminmax, corrcoef, cov, dist, nanmean, nansum, norm, prod, renorm, std_mean, var_mean,
)  # fmt: skip
from dtrain.ops.shape import (
    broadcast_to, cat, chunk, clone, concat, flatten, permute, reshape, split, split_with_sizes, squeeze, stack,
    transpose, unbind, unsqueeze,
)  # fmt: skip
from dtrain.ops.shuffling import channel_shuffle, pixel_shuffle, pixel_unshuffle
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
e, inf, nan, newaxis, pi = _np.e, _np.inf, _np.nan, None, _np.pi
Size = tuple


def is_tensor(x: object) -> builtins.bool:
    """Whether x is a Tensor."""
    return isinstance(x, Tensor)


__all__ = [name for name in globals() if not name.startswith("_") and name not in ("annotations", "builtins")]
