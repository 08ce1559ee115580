"""Muon."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from dtrain.autograd import Tensor
from dtrain.backend import Array, xp_of
from dtrain.backend.halves import bfloat16, converted
from dtrain.optim.checks import at_least_zero
from dtrain.optim.optimizer import Optimizer
from dtrain.optim.terms import move_, norm

__all__ = ["Muon"]


class Muon(Optimizer):
    """b = momentum b + (1 - momentum) g;  p = (1 - lr weight_decay) p - lr ratio NS((1 - momentum) g + momentum b)

    for parameters that are matrices (A, B); nesterov=False takes NS(b). NS makes all singular values about 1: X is
    divided by max(|X|, eps), then X = a X + (b (X X') + c (X X')^2) X for ns_steps times, (a, b, c) = ns_coefficients.
    ratio: max(1, A / B)^0.5, or 0.2 max(A, B)^0.5 with adjust_lr_fn="match_rms_adamw" (Jordan et al.,
    kellerjordan.github.io/posts/muon; Liu et al., arXiv:2502.16982). State: momentum_buffer (b).

    As in PyTorch NS is computed in bfloat16: products are added up in float32, and every matrix is rounded.
    Train what is no matrix, and embeddings, with another optimizer. The update of an element depends on the whole
    matrix, so ZeroRedundancyOptimizer refuses it. Raises ValueError for negative numbers, ns_steps from 100 on,
    another adjust_lr_fn and parameters that are no matrices.
    """

    elementwise = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        at_least_zero(lr=lr, momentum=momentum, weight_decay=weight_decay)
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ValueError(f"adjust_lr_fn must be 'original', 'match_rms_adamw' or None, got {adjust_lr_fn!r}")
        if ns_steps >= 100 or len(ns_coefficients) != 3:
            raise ValueError(
                f"ns_steps must be less than 100 and ns_coefficients three numbers, got {ns_steps}, {ns_coefficients}"
            )
        options: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov}
        options |= {"ns_coefficients": ns_coefficients, "eps": eps, "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn}
        super().__init__(params, options)

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Train more matrices. Raises ValueError for parameters that are none."""
        super().add_param_group(group)
        for p in self.param_groups[-1]["params"]:
            if p.ndim != 2:
                self.param_groups.pop()
                self._flat_states.pop()
                raise ValueError(
                    f"Muon trains matrices, got a parameter of shape {p.shape}; give it to another optimizer, AdamW say"
                )

    def buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",)

    def update(  # type: ignore[override]
        self, p: Array, g: Array, state: dict[str, Any], step: int, *,
        lr: float, weight_decay: float, momentum: float, nesterov: bool, ns_coefficients: tuple[float, float, float],
        eps: float, ns_steps: int, adjust_lr_fn: str | None,
    ) -> None:  # fmt: skip
        b = state["momentum_buffer"]
        move_(b, g, 1 - momentum)
        direction = (1 - momentum) * g + momentum * b if nesterov else b
        change = _orthogonalized(direction, ns_coefficients, ns_steps, eps)
        rows, columns = p.shape
        if adjust_lr_fn == "match_rms_adamw":
            ratio = 0.2 * math.sqrt(max(rows, columns))
        else:
            ratio = math.sqrt(max(1, rows / columns))
        p *= 1 - lr * weight_decay
        p -= (lr * ratio) * change.astype(p.dtype)


def _orthogonalized(x: Array, coefficients: tuple[float, float, float], steps: int, eps: float) -> Array:
    """x with singular values of about 1, by Newton and Schulz's iteration of fifth order, in bfloat16 (as float32)."""
    a, b, c = coefficients
    tall = x.shape[0] > x.shape[1]
    x = _bfloat16(x.T if tall else x)
    size = _bfloat16(xp_of(x).full(1, norm(x)))
    x = _bfloat16(x / xp_of(x).maximum(size, _bfloat16(xp_of(x).full(1, eps))))
    for _ in range(steps):
        gram = _bfloat16(x @ x.T)
        x = _bfloat16(a * x + _bfloat16(b * gram + c * (gram @ gram)) @ x)
    return x.T if tall else x


def _bfloat16(x: Array) -> Array:
    """x rounded to bfloat16, as float32."""
    return converted(x, bfloat16).astype(np.float32)
