"""Averages of a model's weights over training: exponential (EMA) and plain (SWA)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from dtrain import nn
from dtrain.autograd import Tensor, as_one_call, no_grad
from dtrain.nn import Buffer, Module
from dtrain.optim.lr_scheduler.schedule import LRScheduler, for_each_group, rates
from dtrain.optim.optimizer import Optimizer

__all__ = [
    "SWALR", "AveragedModel", "get_ema_avg_fn", "get_ema_multi_avg_fn", "get_swa_avg_fn", "get_swa_multi_avg_fn",
    "update_bn",
]  # fmt: skip

AverageFunction = Callable[[Tensor, Tensor, Any], Tensor]
AverageFunctions = Callable[[Sequence[Tensor], Sequence[Tensor], Any], None]


def get_ema_multi_avg_fn(decay: float = 0.999) -> AverageFunctions:
    """average = decay * average + (1 - decay) * value, for lists of tensors in place; decay in [0, 1]."""
    _check_decay(decay)

    def update(averages: Sequence[Tensor], values: Sequence[Tensor], number: Any) -> None:
        for average, value in zip(averages, values, strict=True):
            _move(average, value, 1 - decay)

    return update


def get_swa_multi_avg_fn() -> AverageFunctions:
    """average = average + (value - average) / (number + 1), for lists of tensors in place; number: of values so far."""

    def update(averages: Sequence[Tensor], values: Sequence[Tensor], number: Any) -> None:
        for average, value in zip(averages, values, strict=True):
            _move(average, value, 1 / (int(number) + 1))

    return update


def get_ema_avg_fn(decay: float = 0.999) -> AverageFunction:
    """decay * average + (1 - decay) * value, of two tensors. ValueError unless 0 <= decay <= 1."""
    _check_decay(decay)
    return lambda average, value, number: decay * average + (1 - decay) * value


def get_swa_avg_fn() -> AverageFunction:
    """average + (value - average) / (number + 1), of two tensors; number: of values so far."""
    return lambda average, value, number: average + (value - average) / (int(number) + 1)


class AveragedModel(Module):
    """A copy of a model whose parameters are averages of the model's over training.

    `update_parameters(model)` takes the present ones: the first time they are copied, then average = avg_fn(average,
    value, number of values so far), or multi_avg_fn of lists of them in place. Default: the plain average (Izmailov et
    al., arXiv:1803.05407); `get_ema_multi_avg_fn(0.999)` for an exponential one. use_buffers averages buffers of
    floating point, too; otherwise they are the model's last ones, and `update_bn` finds statistics that belong to the
    averaged weights. device: "cpu", or None.

        ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.999))
        ...
        optimizer.step()
        ema.update_parameters(net)

    In the state dict: module's under "module.", and n_averaged. With DistributedDataParallel give the wrapper or the
    module in it; parameters are the same on all ranks after a step, and so are averages. `update_parameters` raises
    ValueError for a model with other parameters; the constructor for both functions.
    """

    n_averaged: Tensor

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: AverageFunction | None = None,
        multi_avg_fn: AverageFunctions | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise ValueError("avg_fn and multi_avg_fn are two forms of one thing: pass one of them")
        self.module = copy.deepcopy(_unwrapped(model))
        if device is not None:
            self.module.to(device)
        self.n_averaged = Buffer(Tensor(np.zeros((), np.int64)))
        self.avg_fn, self.multi_avg_fn, self.use_buffers = avg_fn, multi_avg_fn, use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    @no_grad()
    @as_one_call
    def update_parameters(self, model: Module) -> None:
        """Take the model's present parameters into the average."""
        model = _unwrapped(model)
        pairs = _pairs(self.module.parameters(), model.parameters())
        kept = _pairs(self.module.buffers(), model.buffers())
        if self.use_buffers:
            pairs += [pair for pair in kept if pair[0].dtype.kind == "f"]
            kept = [pair for pair in kept if pair[0].dtype.kind != "f"]
        number = self.n_averaged.item()
        if not number:
            kept, pairs = kept + pairs, []
        if self.avg_fn is not None:
            for average, value in pairs:
                average.array[...] = self.avg_fn(average.detach(), value.detach(), number).array
        elif pairs:
            update = get_swa_multi_avg_fn() if self.multi_avg_fn is None else self.multi_avg_fn
            update([average.detach() for average, _ in pairs], [value.detach() for _, value in pairs], number)
        for average, value in kept:
            average.array[...] = value.array
        self.n_averaged.array += 1


@no_grad()
def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Set the running statistics of all BatchNorm layers to their means over the batches of one pass.

    loader: batches, or tuples and lists whose first element is what the model takes. The model is called in training
    mode, without gradients, and has its mode and momenta again afterwards. Every rank must be given all batches, to
    get the same statistics: ValueError for a loader that hands them out to several ranks.
    """
    model = _unwrapped(model)
    if getattr(getattr(loader, "comm", None), "size", 1) > 1:
        raise ValueError(
            f"the loader gives each of {loader.comm.size} ranks batches of its own, from which each would get other "  # type: ignore[attr-defined]
            "statistics: give update_bn a loader without comm, so that every rank sees all batches"
        )
    kinds = tuple(kind for name, kind in vars(nn).items() if "BatchNorm" in name and isinstance(kind, type))
    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, kinds)]
    if not layers:
        return
    momenta, training = [layer.momentum for layer in layers], model.training
    for layer in layers:
        layer.momentum = None
        for buffer, start in ((layer.running_mean, 0), (layer.running_var, 1), (layer.num_batches_tracked, 0)):
            if buffer is not None:
                buffer.array[...] = start
    model.train()
    try:
        for batch in loader:
            x = batch[0] if isinstance(batch, (list, tuple)) else batch
            model(x if device is None else x.to(device))
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        model.train(training)


class SWALR(LRScheduler):
    """lr goes to swa_lr in anneal_epochs steps, and stays: lr = swa_lr a(t) + base (1 - a(t))

    with a(t) = (1 - cos(pi s)) / 2 (anneal_strategy="cos") or s ("linear"), s = t / anneal_epochs. swa_lr: one, or one
    for each group. It may begin late in training, when other schedules have set the learning rate. ValueError for
    another anneal_strategy and a negative anneal_epochs.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | list[float],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}")
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be a whole number from 0 on, got {anneal_epochs}")
        for group, value in zip(optimizer.param_groups, for_each_group("swa_lr", optimizer, swa_lr), strict=True):
            group["swa_lr"] = value
        self.anneal_epochs, self._anneal_strategy = anneal_epochs, anneal_strategy
        super().__init__(optimizer, last_epoch)

    def _share(self, t: int) -> float:
        s = max(0.0, min(1.0, t / max(1, self.anneal_epochs)))
        return s if self._anneal_strategy == "linear" else (1 - math.cos(math.pi * s)) / 2

    def get_lr(self) -> list[float]:
        t = self._step_count - 1
        if self.anneal_epochs == 0:
            t = max(1, t)
        before, now = self._share(t - 1), self._share(t)
        goals = [group["swa_lr"] for group in self.optimizer.param_groups]
        if before == 1:
            return goals
        # (1 - now) / (1 - before) of what is left to go
        left = (1 - now) / (1 - before)
        return [goal + (lr - goal) * left for goal, lr in zip(goals, rates(self.optimizer), strict=True)]


def _unwrapped(model: Module) -> Module:
    """The module in a wrapper that trains it on several ranks; anything else as it is."""
    inner = getattr(model, "module", None)
    return inner if isinstance(inner, Module) and hasattr(model, "microbatches") else model


def _pairs(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    averages, values = list(ours), list(theirs)
    if [t.shape for t in averages] != [t.shape for t in values]:
        raise ValueError(
            f"the averaged model has parameters or buffers of shapes {[t.shape for t in averages]}, the model of "
            f"{[t.shape for t in values]}"
        )
    return list(zip(averages, values, strict=True))


def _move(average: Tensor, value: Tensor, share: float) -> None:
    average.array[...] += share * (value.array - average.array)


def _check_decay(decay: float) -> None:
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must be in [0, 1], got {decay}")
