"""Dropout. Masks are functions of (seed, step, microbatch, call), so they do not depend on the number of ranks."""

from __future__ import annotations

import math
import warnings
from typing import Any

from dtrain.autograd import as_one_call, op
from dtrain.backend import Array, backend_of, xp_of
from dtrain.ops.draws import drawing

__all__ = [
    "alpha_dropout", "draw_kept", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout",
]  # fmt: skip


def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:  # noqa: A002
    """Zero each element with probability p and multiply the others by 1 / (1 - p) (Srivastava et al., JMLR 2014).

    The mask is a function of (seed, step, microbatch, call), so it does not depend on the number of
    ranks. Without `training` the input itself is returned. Raises ValueError for p outside [0, 1].
    """
    _check("dropout", p)
    if not training or p == 0:
        return input
    return _dropout(input, draw_kept(input.array, input.shape, p), p)


def dropout1d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:  # noqa: A002
    """`dropout` of whole channels.  input: (N, C, L) or (C, L)

    Tompson et al., arXiv:1411.4280. Raises ValueError for other numbers of dimensions.
    """
    if input.ndim not in (2, 3):
        raise ValueError(f"dropout1d takes an input of shape (N, C, L) or (C, L), got shape {input.shape}")
    return _dropout_of_channels("dropout1d", input, p, training, input.ndim - 1)


def dropout2d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:  # noqa: A002
    """`dropout` of whole channels.  input: (N, C, H, W), or (N, C, L), as PyTorch takes three dimensions (and warns)

    Other numbers of dimensions are taken too, with a warning: the first two stay, the others are dropped together.
    Raises ValueError for p outside [0, 1] and for fewer than 2 dimensions.
    """
    if input.ndim != 4:
        warnings.warn(
            f"dropout2d drops the channels of (N, C, H, W); an input of shape {input.shape} is taken for (N, C, ...); "
            "use dropout or dropout1d",
            stacklevel=2,
        )
    return _dropout_of_channels("dropout2d", input, p, training, input.ndim - 2)


def dropout3d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:  # noqa: A002
    """`dropout` of whole channels.  input: (N, C, D, H, W) or (C, D, H, W)

    Other numbers of dimensions are taken for (C, ...), with a warning. Raises ValueError for p outside [0, 1] and for
    fewer than 2 dimensions.
    """
    if input.ndim not in (4, 5):
        warnings.warn(
            f"dropout3d drops the channels of (N, C, D, H, W) or (C, D, H, W); an input of shape {input.shape} is "
            "taken for (C, ...); use dropout",
            stacklevel=2,
        )
    return _dropout_of_channels("dropout3d", input, p, training, input.ndim - (2 if input.ndim == 5 else 1))


def _dropout_of_channels(name: str, x: Any, p: float, training: bool, spatial: int) -> Any:
    _check(name, p)
    if not training or p == 0:
        return x
    return _dropout(x, draw_kept(x.array, _channels(name, x, spatial), p), p)


def _channels(name: str, x: Any, spatial: int) -> tuple[int, ...]:
    """The shape of a mask of channels: 1 for each of the last `spatial` dimensions."""
    if x.ndim < 2 or spatial < 0:
        raise ValueError(f"{name} needs an input of at least 2 dimensions, got shape {x.shape}")
    return (*x.shape[: x.ndim - spatial], *[1] * spatial)


def alpha_dropout(input: Any, p: float = 0.5, training: bool = False, inplace: bool = False) -> Any:  # noqa: A002
    """Set each element to SELU's negative limit with probability p; then scale so that mean 0 and variance 1 stay.

    Klambauer et al., arXiv:1706.02515. Without `training` the input itself is returned. Raises ValueError for p
    outside [0, 1].
    """
    _check("alpha_dropout", p)
    if not training or p == 0:
        return input
    return _alpha_dropout(input, draw_kept(input.array, input.shape, p), p)


def feature_alpha_dropout(
    input: Any,  # noqa: A002
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
) -> Any:
    """`alpha_dropout` of whole channels.  input: (N, C, ...)

    Raises ValueError for p outside [0, 1] and for fewer than 2 dimensions.
    """
    _check("feature_alpha_dropout", p)
    if not training or p == 0:
        return input
    shape = _channels("feature_alpha_dropout", input, input.ndim - 2)
    return _alpha_dropout(input, draw_kept(input.array, shape, p), p)


def _check(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: p must be in [0, 1], got {p}")


@op
def _dropout(x: Any, kept: Any, p: float) -> Any:
    """x where kept, multiplied by 1 / (1 - p), else 0."""
    factor = kept * x.dtype.type(1 / (1 - p) if p < 1 else 0)
    return x * factor, lambda g: g * factor


# -scale * alpha of SELU: what it gives for -infinity.
_LIMIT = -1.0507009873554805 * 1.6732632423543772


@op
def _alpha_dropout(x: Any, kept: Any, p: float) -> Any:
    """a x + b where kept, else a limit + b."""
    a = 1 / math.sqrt((1 - p) * (1 + p * _LIMIT**2)) if p < 1 else 0.0
    b = -a * p * _LIMIT
    factor = kept * x.dtype.type(a)
    rest = xp_of(kept).where(kept, x.dtype.type(b), x.dtype.type(a * _LIMIT + b))
    return x * factor + rest, lambda g: g * factor


@as_one_call
def draw_kept(x: Array, shape: tuple[int, ...], p: float) -> Array:
    """True where dropout with probability p keeps an element, of `shape`, where x lives: the next draw of this step."""
    return backend_of(x).dropout_mask(drawing(), shape, p)
