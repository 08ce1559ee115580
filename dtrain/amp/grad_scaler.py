"""`GradScaler`: gradients in float16 without underflow, by way of a scaled loss. `torch.amp.GradScaler`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dtrain.autograd import Tensor, mark_written
from dtrain.backend import Array, capture, device_of, on_gpu, to_device, to_numpy, xp_of
from dtrain.backend.halves import HALVES

__all__ = ["GradScaler"]


class GradScaler:
    """Scales the loss so that small gradients are not lost in float16, and finds the scale by itself.

        scaler.scale(loss).backward()      # with DistributedDataParallel or without
        scaler.unscale_(optimizer)         # only if gradients are looked at or clipped in between
        scaler.step(optimizer)             # leaves the step out if a gradient is infinite or NaN
        scaler.update()

    The scale begins at init_scale. `update` multiplies it by backoff_factor after a step with gradients that were not
    finite, and by growth_factor after growth_interval steps in a row without. Ranks that hold the same gradients come
    to the same scale. enabled=False: everything is done as without a scaler. bfloat16 needs none.

    Scale and count live where the losses are. On a GPU nothing waits for them: optimizers whose updates are elementwise
    leave a step out on the GPU itself, for others it is waited for.

    Raises ValueError for growth_factor <= 1 or backoff_factor >= 1. Micikevicius et al., arXiv:1710.03740, section 3.2.
    """

    def __init__(
        self,
        device: str = "cpu",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if growth_factor <= 1.0 or backoff_factor >= 1.0:
            raise ValueError(
                f"GradScaler: growth_factor must be above 1 and backoff_factor below, got {growth_factor} and "
                f"{backoff_factor}"
            )
        self._growth, self._backoff, self._interval = growth_factor, backoff_factor, growth_interval
        self._enabled = enabled
        self._scale: Array = np.array(init_scale, np.float64)
        self._good: Array = np.array(0, np.int64)  # steps in a row without a gradient that was not finite
        self._finite: dict[int, Array] = {}  # of the optimizers whose gradients have been unscaled: one truth each
        self._stepped: set[int] = set()

    def scale(self, outputs: Any) -> Any:
        """outputs times the scale: a Tensor, or nested lists, tuples and dicts of them."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, dict):
            return {name: self.scale(value) for name, value in outputs.items()}
        if isinstance(outputs, (list, tuple)):
            return type(outputs)(map(self.scale, outputs))
        if not on_gpu(outputs.array):
            capture.refuse("a GradScaler's scale on a CPU is a number of this step")
            return outputs * self.get_scale()
        self._move_to(outputs.array)
        wide = outputs.to(np.float32) if outputs.dtype in HALVES else outputs
        return (wide * Tensor(self._scale.astype(wide.dtype))).to(outputs.dtype)

    def _move_to(self, x: Array) -> None:
        self._scale, self._good = (to_device(own, device_of(x)) for own in (self._scale, self._good))

    def unscale_(self, optimizer: Any) -> None:
        """Divide the gradients of the optimizer's parameters by the scale, in place.

        Raises RuntimeError where that was done since the last `update`, or the step was taken, and ValueError for
        gradients in float16, which have no room for it: keep the parameters in float32.
        """
        if not self._enabled:
            return
        if id(optimizer) in self._stepped:
            raise RuntimeError("unscale_() after step(): call it before, and update() after both")
        if id(optimizer) in self._finite:
            raise RuntimeError("unscale_() has already been called on this optimizer since the last update()")
        finite: Any = None
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = p.grad.array
                if g.dtype == np.float16:
                    raise ValueError(f"unscale_: a parameter of shape {p.shape} has a gradient in float16")
                self._move_to(g)
                with np.errstate(all="ignore"):
                    np.multiply(g, (1 / self._scale).astype(g.dtype), out=g)
                    of_this = np.isfinite(g).all()
                    finite = of_this if finite is None else finite & of_this
                mark_written(g)
        self._again(lambda: self._finite.update({id(optimizer): np.True_ if finite is None else finite}))

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """optimizer.step(...) if its gradients are finite, after `unscale_` where that was not called; what it returns.

        Raises RuntimeError for a second step without an `update`, and for a closure.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs:
            raise RuntimeError("GradScaler.step does not take a closure; call the optimizer itself")
        if id(optimizer) in self._stepped:
            raise RuntimeError("step() has already been called on this optimizer since the last update()")
        if id(optimizer) not in self._finite:
            self.unscale_(optimizer)
        self._again(lambda: self._stepped.add(id(optimizer)))
        finite = self._finite[id(optimizer)]
        if on_gpu(finite) and hasattr(optimizer, "step_if") and not (args or kwargs):
            return optimizer.step_if(finite)
        return optimizer.step(*args, **kwargs) if finite else None

    def update(self, new_scale: Any = None) -> None:
        """Find the scale of the next step, or set it. Raises RuntimeError where no step was tried before."""
        if not self._enabled:
            return
        if new_scale is not None:
            self._scale[...] = float(new_scale)
        elif not self._finite:
            raise RuntimeError("update() needs a step before: call step(optimizer)")
        else:
            finite, *others = self._finite.values()
            for other in others:
                finite = finite & other
            where = xp_of(self._scale).where
            good = where(finite, self._good + 1, 0)
            grows = good == self._interval
            factor = where(grows, self._growth, 1.0)
            self._scale *= where(finite, factor, self._backoff)
            self._good[...] = where(grows, 0, good)
        self._again(self._forget)

    def _forget(self) -> None:
        self._finite.clear()
        self._stepped.clear()

    def _again(self, note: Callable[[], Any]) -> None:
        """note(), now and whenever a graph that this call was captured in is started: with the same scale."""
        note()
        record, scale, good = capture.present(), self._scale, self._good
        if record is None:
            return

        def check() -> None:
            if self._scale is not scale or self._good is not good:
                raise capture.NotCapturable("a GradScaler has moved")

        record.checks.append(check)
        record.effect(note)

    # -- settings ----------------------------------------------------------------------------------

    def is_enabled(self) -> bool:
        """Whether it does anything."""
        return self._enabled

    def get_scale(self) -> float:
        """The scale; 1 where the scaler is not enabled."""
        return float(to_numpy(self._scale)) if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        """What the scale is multiplied by after growth_interval good steps."""
        return self._growth

    def get_backoff_factor(self) -> float:
        """What the scale is multiplied by after a bad step."""
        return self._backoff

    def get_growth_interval(self) -> int:
        """How many good steps in a row let the scale grow."""
        return self._interval

    def state_dict(self) -> dict[str, Any]:
        """Scale, factors and count, for `load_state_dict`; {} where the scaler is not enabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self.get_scale(), "growth_factor": self._growth, "backoff_factor": self._backoff,
            "growth_interval": self._interval, "_growth_tracker": int(to_numpy(self._good)),
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a `state_dict()`, PyTorch's too. Raises RuntimeError for an empty one."""
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError("the state dict is empty: it is of a GradScaler that was not enabled")
        self._scale[...] = float(state_dict["scale"])
        self._good[...] = int(state_dict["_growth_tracker"])
        self._growth, self._backoff = state_dict["growth_factor"], state_dict["backoff_factor"]
        self._interval = state_dict["growth_interval"]
