"""LARS, for large batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dtrain.autograd import Tensor
from dtrain.backend import Array
from dtrain.optim.checks import at_least_zero
from dtrain.optim.optimizer import Optimizer
from dtrain.optim.terms import norm

__all__ = ["LARS"]


class LARS(Optimizer):
    """u = r (g + weight_decay p);  v = momentum v + (1 - dampening) u;  p = p - lr v   (the first v is u itself)

    with r = trust_coefficient |p| / (|g| + weight_decay |p| + eps) for each parameter, 1 where |p| or |g| is 0
    (You et al., arXiv:1708.03888, with lr where PyTorch's SGD has it). With nesterov p = p - lr (u + momentum v);
    maximize turns g round. State: momentum_buffer (v), as SGD's.

    adapt=False makes r = 1: in large-batch training biases and parameters of normalization layers are usually neither
    scaled nor decayed:

        decayed = [p for p in net.parameters() if p.ndim > 1]
        others = [p for p in net.parameters() if p.ndim <= 1]
        optim.LARS([{"params": decayed}, {"params": others, "adapt": False, "weight_decay": 0}], lr=2.0, ...)

    r needs the norm of a whole parameter, so ZeroRedundancyOptimizer refuses it. Raises ValueError for negative
    numbers, and for nesterov without momentum or with dampening.
    """

    elementwise = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-1,
        momentum: float = 0.9,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        adapt: bool = True,
        maximize: bool = False,
    ) -> None:
        at_least_zero(lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient, eps=eps)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(f"nesterov needs momentum > 0 and dampening 0, got {momentum} and {dampening}")
        options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        options |= {"nesterov": nesterov, "trust_coefficient": trust_coefficient, "eps": eps}
        super().__init__(params, {**options, "adapt": adapt, "maximize": maximize})

    def buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()

    def update(  # type: ignore[override]
        self, p: Array, g: Array, state: dict[str, Any], step: int, *,
        lr: float, momentum: float, dampening: float, weight_decay: float, nesterov: bool, trust_coefficient: float,
        eps: float, adapt: bool, maximize: bool,
    ) -> None:  # fmt: skip
        ratio = 1.0
        if adapt:
            of_p, of_g = norm(p), norm(g)
            if of_p > 0 and of_g > 0:
                ratio = trust_coefficient * of_p / (of_g + weight_decay * of_p + eps)
        u = (-ratio if maximize else ratio) * g
        if weight_decay:
            u = u + (ratio * weight_decay) * p
        if momentum:
            v = state["momentum_buffer"]
            if step == 1:
                v[...] = u
            else:
                v *= momentum
                v += (1 - dampening) * u
            u = u + momentum * v if nesterov else v
        p -= lr * u
