"""L-BFGS."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, enable_grad
from dtrain.backend import Array, xp_of
from dtrain.optim.checks import at_least_zero, number
from dtrain.optim.line_search import Point, strong_wolfe
from dtrain.optim.optimizer import Optimizer

__all__ = ["LBFGS"]


class LBFGS(Optimizer):
    """p = p + t d, d = -H g for up to max_iter iterations a step, with H from the last history_size changes of p and g

    Limited-memory BFGS (Liu and Nocedal, Math. Programming 1989; two-loop recursion). t is lr (in the very first
    iteration lr min(1, 1 / |g|_1)), or found from there by a search for the strong Wolfe conditions
    (line_search_fn="strong_wolfe"). A step ends before max_iter when the closure has been called max_eval times
    (default: 5/4 max_iter), when the largest element of g is at most tolerance_grad, or when p changes by no more, or
    the loss by less, than tolerance_change.

        def closure():
            optimizer.zero_grad()
            loss = loss_function(model(x), y)
            loss.backward()
            return loss
        optimizer.step(closure)

    One group for all parameters. History takes history_size times 2 times the parameters. State, kept with the first
    parameter: func_evals, n_iter, d, t, old_dirs, old_stps, ro, H_diag, prev_flat_grad, prev_loss.

    With DistributedDataParallel `step` calls the closure several times, the same number on every rank. Each call runs
    all of the rank's microbatches of the step, which the closure has kept (a loader gives them once), counts as a step
    of the model, and must return `model.loss`, the mean over all ranks:

        def closure():
            optimizer.zero_grad()
            for x, y in batches:
                F.cross_entropy(model(x), y).backward()
            return model.loss

    `step` raises RuntimeError where the closure leaves microbatches out or returns anything else, such as the rank's
    own loss, by which ranks would part. A step in which ranks are lost cannot be done again: restart from a checkpoint.

    Raises ValueError for several groups, a negative lr and another line_search_fn. ZeroRedundancyOptimizer refuses it.
    """

    elementwise = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        at_least_zero(lr=lr)
        if line_search_fn not in (None, "strong_wolfe"):
            raise ValueError(f"line_search_fn must be 'strong_wolfe' or None, got {line_search_fn!r}")
        options = {"lr": lr, "max_iter": max_iter, "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval}
        options |= {"tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change}
        self._memory: dict[str, Any] = {}
        super().__init__(params, {**options, "history_size": history_size, "line_search_fn": line_search_fn})

    def add_param_group(self, group: dict[str, Any]) -> None:
        """The only group. Raises ValueError for a second one."""
        if self.param_groups:
            raise ValueError("LBFGS minimizes along one direction for all parameters: it has one group, with one lr")
        super().add_param_group(group)

    @property
    def _params(self) -> list[Tensor]:
        return self.param_groups[0]["params"]

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        if closure is None:
            raise TypeError("LBFGS.step needs a closure that clears the gradients, computes the loss and returns it")
        first: list[Any] = []

        def evaluate() -> tuple[float, Array]:
            with enable_grad():
                returned = closure()
            first.append(returned) if not first else None
            return self._loss_of(returned), self._gradient()

        self._iterate(evaluate)
        self._end_step(not self._sinks())
        return first[0]

    def _loss_of(self, returned: Any) -> float:
        """What the closure has returned, as a number: with DistributedDataParallel that of all ranks."""
        self._check_sinks()
        loss = float(returned)
        for sink in self._sinks():
            mean = getattr(sink.owner, "loss", math.nan)
            if math.isnan(mean):
                continue
            if not math.isclose(loss, mean, rel_tol=1e-5, abs_tol=1e-9):
                raise RuntimeError(
                    f"LBFGS: the closure returned {loss}, and the mean loss over the global batch, of all ranks and "
                    f"microbatches, is {mean}; ranks that follow losses of their own part: return model.loss"
                )
            return mean
        return loss

    def _iterate(self, evaluate: Callable[[], tuple[float, Array]]) -> None:
        o = {name: number(value) for name, value in self.param_groups[0].items()}
        s = self._memory
        loss, g = evaluate()
        evaluations = 1
        s.update(func_evals=s.get("func_evals", 0) + 1, n_iter=s.get("n_iter", 0))
        if _largest(g) <= o["tolerance_grad"]:
            return
        for iteration in range(1, o["max_iter"] + 1):
            s["n_iter"] += 1
            if s["n_iter"] == 1:
                s.update(d=-g, old_dirs=[], old_stps=[], ro=[], H_diag=1.0)
            else:
                self._remember(g, o["history_size"])
                s["d"] = self._direction(g)
            s.update(prev_flat_grad=g.copy(), prev_loss=loss)
            d, slope = s["d"], float(g @ s["d"])
            s["t"] = o["lr"] * (min(1.0, 1 / float(abs(g).sum())) if s["n_iter"] == 1 else 1.0)
            if slope > -o["tolerance_change"]:
                return
            used = 0
            if o["line_search_fn"] is not None:
                point, used = self._search(evaluate, Point(0.0, loss, g, slope), o, o["max_eval"] - evaluations)
                s["t"], loss, g = point.t, point.loss, point.gradient
                self._move(s["t"], d)
            else:
                self._move(s["t"], d)
                if iteration < o["max_iter"]:  # after the last iteration nobody looks
                    loss, g = evaluate()
                    used = 1
            evaluations += used
            s["func_evals"] += used
            if (
                evaluations >= o["max_eval"]
                or _largest(g) <= o["tolerance_grad"]
                or _largest(d) * abs(s["t"]) <= o["tolerance_change"]
                or abs(loss - s["prev_loss"]) < o["tolerance_change"]
            ):
                return

    def _remember(self, g: Array, history_size: int) -> None:
        """Add the last change of the gradient, and the step that made it, to what H is made of."""
        s = self._memory
        y, step = g - s["prev_flat_grad"], s["d"] * s["t"]
        product = float(y @ step)
        if product > 1e-10:
            for name, value in (("old_dirs", y), ("old_stps", step), ("ro", 1 / product)):
                s[name] = [*s[name], value][-history_size:]
            s["H_diag"] = product / float(y @ y)

    def _direction(self, g: Array) -> Array:
        """-H g"""
        s = self._memory
        history = list(zip(s["old_dirs"], s["old_stps"], s["ro"], strict=True))
        d, along = -g, []
        for y, step, rho in reversed(history):
            along.append(float(step @ d) * rho)
            d -= along[-1] * y
        d *= s["H_diag"]
        for (y, step, rho), a in zip(history, reversed(along), strict=True):
            d += (a - float(y @ d) * rho) * step
        return d

    def _search(
        self, evaluate: Callable[[], tuple[float, Array]], start: Point, options: dict[str, Any], most: int
    ) -> tuple[Point, int]:
        d, t = self._memory["d"], self._memory["t"]
        origin = [p.array.copy() for p in self._params]

        def evaluate_at(t: float) -> Point:
            self._move(t, d)
            loss, g = evaluate()
            for p, before in zip(self._params, origin, strict=True):
                p.array[...] = before
            return Point(t, loss, g, float(g @ d))

        return strong_wolfe(evaluate_at, start, t, _largest(d), most, options["tolerance_change"])

    def _move(self, t: float, d: Array) -> None:
        start = 0
        for p in self._params:
            p.array += (t * d[start : start + p.numel()]).reshape(p.shape)
            start += p.numel()

    def _gradient(self) -> Array:
        """All gradients in one array, in the order of the parameters; 0 where there is none."""
        xp = xp_of(self._params[0].array)
        arrays = [xp.zeros_like(p.array) if p.grad is None else p.grad.array for p in self._params]
        return xp.concatenate([a.reshape(-1) for a in arrays])

    # -- state -----------------------------------------------------------------------------------

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:
        """{the first parameter: state}, as in PyTorch, once there has been a step."""
        return {self._params[0]: _converted(self._memory, Tensor)} if self._memory else {}

    def state_nbytes(self) -> int:
        """The bytes of the state arrays."""
        arrays = [v for value in self._memory.values() for v in (value if isinstance(value, list) else [value])]
        return sum(getattr(a, "nbytes", 0) for a in arrays)

    def _check_state(self, groups: list[dict[str, Any]], given: list[list[dict[str, Any]]]) -> None:
        n = sum(p.numel() for p in self._params)
        for name in ("d", "prev_flat_grad"):
            value = given[0][0].get(name)
            if value is not None and tuple(value.shape) != (n,):
                raise ValueError(f"state {name!r} has shape {tuple(value.shape)}; the parameters have {n} elements")

    def _load_state(self, given: list[list[dict[str, Any]]]) -> None:
        self._memory = {k: _own(v) for k, v in given[0][0].items() if k != "al" and v is not None}


def _largest(x: Array) -> float:
    return float(abs(x).max(initial=0))


def _converted(value: Any, make: Callable[[Array], Any]) -> Any:
    """A state in which `make` has been applied to all arrays."""
    if isinstance(value, dict):
        return {k: _converted(v, make) for k, v in value.items()}
    if isinstance(value, list):
        return [_converted(v, make) for v in value]
    return value if isinstance(value, (int, float)) else make(value)


def _own(value: Any) -> Any:
    """A saved value: lists, numbers, and arrays (those of one element and no dimension are numbers, too)."""
    if isinstance(value, (list, tuple)):
        return [_own(v) for v in value]
    if isinstance(value, (int, float)):
        return value
    array = np.array(getattr(value, "array", value))
    return array if array.ndim else array.item()
