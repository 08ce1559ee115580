"""PowerSGD: gradients as products of two thin matrices. PyTorch's names."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from dtrain.autograd import Tensor
from dtrain.backend import Array
from dtrain.backend.random import Purpose, stream
from dtrain.parallel.hooks.bucket import GradBucket, Place, pack, unpack
from dtrain.parallel.hooks.feedback import ErrorFeedback

__all__ = ["PowerSGDState", "powerSGD_hook"]


class PowerSGDState(ErrorFeedback):
    """State of `powerSGD_hook`; options and defaults are PyTorch's.

    process_group: None (the ranks are the model's). matrix_approximation_rank: r, columns of the thin matrices.
    start_powerSGD_iter: how many steps go before without compression. min_compression_rate: an n x m matrix is
    compressed if (n + m) r times this is less than n m. warm_start: begin with the last step's Q; otherwise, and at
    first, with random numbers from `random_seed`. orthogonalization_epsilon: added to the norm by which a column is
    divided (not needed here: a column that is zero, or a sum of others, is left out).
    """

    def __init__(
        self,
        process_group: None = None,
        matrix_approximation_rank: int = 1,
        start_powerSGD_iter: int = 1000,
        min_compression_rate: float = 2,
        use_error_feedback: bool = True,
        warm_start: bool = True,
        orthogonalization_epsilon: float = 0,
        random_seed: int = 0,
    ) -> None:
        if process_group is not None:
            raise TypeError(
                f"process_group must be None, got {process_group!r}: the hook works on the ranks of the model that it "
                "is registered with"
            )
        if matrix_approximation_rank < 1:
            raise ValueError(f"matrix_approximation_rank must be at least 1, got {matrix_approximation_rank}")
        super().__init__(use_error_feedback)
        self.matrix_approximation_rank = matrix_approximation_rank
        self.start_powerSGD_iter = start_powerSGD_iter
        self.min_compression_rate = min_compression_rate
        self.warm_start = warm_start
        self.orthogonalization_epsilon = orthogonalization_epsilon
        self.random_seed = random_seed
        self._qs: dict[str, Array] = {}

    def rank(self, shape: tuple[int, ...]) -> int:
        """Columns of the thin matrices for a parameter, 0 for one that is sent as it is."""
        if len(shape) < 2 or 0 in shape:
            return 0
        n, m = shape[0], int(np.prod(shape[1:]))
        r = min(n, m, self.matrix_approximation_rank)
        return r if (n + m) * r * self.min_compression_rate < n * m else 0

    def first_q(self, place: Place, dtype: Any) -> Array:
        """Q, orthonormal, with which to begin: (m, r)."""
        random = stream(self.random_seed, Purpose.COMPRESSION, self.iter, zlib.crc32(place.name.encode()))
        draw = random.standard_normal((place.size // place.shape[0], self.rank(place.shape))).astype(dtype)
        last = self._qs.get(place.name, draw)
        return orthogonalize(last, self.orthogonalization_epsilon, instead=draw)

    def keep_q(self, name: str, q: Array) -> None:
        """Q of this step, for the next one."""
        if self.warm_start:
            self._qs[name] = q

    def consolidate_state_dict(self, to: int = 0) -> None:
        super().consolidate_state_dict(to)
        if self._consolidated is not None:
            self._consolidated["qs"] = {name: Tensor(q) for name, q in self._qs.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._qs = {name: np.array(q.numpy() if isinstance(q, Tensor) else q) for name, q in state_dict["qs"].items()}


def powerSGD_hook(state: PowerSGDState, bucket: GradBucket) -> Array:
    """Every matrix of gradients is sent as P (n, r) and Q (m, r). Source: Vogels et al., arXiv:1905.13727.

    With M_j = (gradient of microbatch j + its error) as a matrix, n = shape[0]:

        P = orthonormal columns of sum_j M_j Q         Q of the step before, orthonormal
        Q = sum_j M_j^T P                              the sum of all M_j is then taken to be P Q^T
        error_j = M_j - P (M_j^T P)^T                  what microbatch j could not send

    Both sums run along the tree. PyTorch's error is M_j - P Q^T / ranks instead: the sum of all errors, on which alone
    the next step depends, is the same, but those here do not grow with the differences between microbatches.
    Vectors, small matrices and the first `start_powerSGD_iter` steps are not compressed.
    """
    if state.iter < state.start_powerSGD_iter:
        state.finish(bucket.is_last())
        return bucket.all_reduce(bucket.leaves)
    thin = [place for place in bucket.places if state.rank(place.shape)]
    whole = [place for place in bucket.places if not state.rank(place.shape)]
    out = bucket.zeros()
    matrices: dict[int, list[Array | None]] = {j: [] for j in bucket.leaves}
    for j, leaf in bucket.leaves.items():
        for place in thin:
            m = state.with_error(place.name, j, leaf[place.where])
            matrices[j].append(None if m is None else m.reshape(place.shape[0], -1))
    qs = [state.first_q(place, out.dtype) for place in thin]
    ps = [np.zeros((place.shape[0], q.shape[1]), out.dtype) for place, q in zip(thin, qs, strict=True)]

    # What is not compressed goes with the first sum.
    vectors = {j: pack(leaf, whole) for j, leaf in bucket.leaves.items()}
    rest = next(iter(vectors.values())).size
    first = bucket.all_reduce({
        j: np.concatenate([vectors[j], *(
            np.ravel(zero if m is None else m @ q) for m, q, zero in zip(of_j, qs, ps, strict=True)
        )])
        for j, of_j in matrices.items()
    })  # fmt: skip
    unpack(first[:rest], whole, out)
    ps = [orthogonalize(p, state.orthogonalization_epsilon) for p in _split(first[rest:], ps)]

    parts = {
        j: [np.zeros_like(q) if m is None else m.T @ p for m, p, q in zip(of_j, ps, qs, strict=True)]
        for j, of_j in matrices.items()
    }
    second = bucket.all_reduce({
        j: np.concatenate([out[:0], *map(np.ravel, of_j)]) for j, of_j in parts.items()
    })  # fmt: skip
    for i, (place, p, q) in enumerate(zip(thin, ps, _split(second, qs), strict=True)):
        out[place.where] = (p @ q.T).reshape(-1)
        state.keep_q(place.name, q)
        for j, of_j in matrices.items():
            m = of_j[i]
            if m is not None and state.use_error_feedback:
                m -= p @ parts[j][i].T
                state.keep(place.name, j, m.reshape(-1))
    state.finish(bucket.is_last())
    return out


def orthogonalize(a: Array, epsilon: float = 0, instead: Array | None = None) -> Array:
    """The columns of a, made orthonormal one after another (Gram-Schmidt): (n, r) -> (n, r), a new array.

    A column that is zero, or nearly a sum of those before, becomes that of `instead`, made orthonormal; None: zero.
    """
    rows = np.zeros((a.shape[1], a.shape[0]), a.dtype)  # columns, in one piece
    for i in range(len(rows)):
        for source in (a,) if instead is None else (a, instead):
            rows[i] = source[:, i]
            before = np.sqrt(np.dot(rows[i], rows[i]))
            for _ in range(2):  # once leaves rounding errors as large as what is removed
                # BLAS may flag an invalid operation where all numbers are finite (numpy/numpy#24067).
                with np.errstate(invalid="ignore"):
                    rows[i] -= (rows[:i] @ rows[i]) @ rows[:i]
            norm = np.sqrt(np.dot(rows[i], rows[i]))
            if norm > 1e3 * np.finfo(a.dtype).eps * before or not np.isfinite(norm):
                rows[i] /= norm + a.dtype.type(epsilon)
                break
        else:
            rows[i] = 0
    return np.ascontiguousarray(rows.T)


def _split(packed: Array, like: list[Array]) -> list[Array]:
    """The arrays that lie in `packed` one after another, in the shapes of `like`."""
    ends = np.cumsum([array.size for array in like])
    return [packed[end - array.size : end].reshape(array.shape) for end, array in zip(ends, like, strict=True)]
