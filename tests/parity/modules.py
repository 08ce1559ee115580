"""A module of PyTorch's list, and dtrain's of the same name: every sample input, in training and in evaluation.

The state dict of PyTorch's module is loaded into dtrain's, which proves the keys; then outputs are
compared, gradients of inputs and parameters, and buffers. Fractional pooling draws its regions at
random: PyTorch's samples hand the draws over, and so they are compared like all others.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import torch

import dtrain
from dtrain import nn
from tests.parity.compare import Mismatch, check_gradgrad, check_gradients, check_same, has_gradgrad
from tests.parity.convert import Twins, load
from tests.parity.outcome import Outcome
from tests.parity.pytorch import modules, quiet, seeded
from tests.parity.refusals import check_refused
from tests.parity.scope import why_not_module

__all__ = ["names", "run"]

GRADGRAD_SAMPLES, GRADGRAD_SIZE = 3, 300


def names() -> list[str]:
    """The names in scope."""
    return sorted(name for name in modules() if why_not_module(name) is None)


def run(name: str, watch: Any = None) -> Outcome:
    """All checks of one name: "nn.Linear"."""
    info, outcome = modules()[name], Outcome(name, watch=watch)
    cls = getattr(nn, name.removeprefix("nn."), None)
    outcome.provided = cls is not None
    with quiet():
        for training in (True, False):
            samples = seeded(
                lambda training=training: info.module_inputs_func(
                    info, device="cpu", dtype=torch.float64, requires_grad=True, training=training
                )
            )
            for i, sample in enumerate(samples):
                label = f"{'train' if training else 'eval'} {i} {sample.desc}".rstrip()
                if cls is None:
                    outcome.count("samples", label, _missing, ())
                    continue
                torch.manual_seed(i)
                shown = (sample.constructor_input, sample.forward_input)
                outcome.count("samples", label, lambda s=sample, t=training: _Pair(info, cls, s, t).check(), shown)
                if i == 0:
                    outcome.count("samples", f"{label}, copied", lambda s=sample: _check_copies(info, cls, s), shown)
                small = i < GRADGRAD_SAMPLES and training and info.supports_gradgrad and has_gradgrad()
                if small:
                    outcome.count(
                        "gradgrad", label, lambda s=sample, t=training: _Pair(info, cls, s, t).check_gradgrad(), shown
                    )
        if cls is not None and info.module_error_inputs_func is not None:
            errors = seeded(
                lambda: info.module_error_inputs_func(
                    info, device="cpu", dtype=torch.float64, requires_grad=False, training=True
                )
            )
            for i, error in enumerate(errors):
                shown = (error.module_error_input.constructor_input, error.module_error_input.forward_input)
                outcome.count("errors", str(i), lambda e=error: _check_error(cls, e), shown)
    return outcome


def _missing() -> None:
    raise Mismatch("not provided")


class _Pair:
    """PyTorch's module and dtrain's, and both sides' inputs."""

    def __init__(self, info: Any, cls: Any, sample: Any, training: bool) -> None:
        twins = Twins()
        their_args, our_args = twins.of(tuple(sample.constructor_input.args))
        their_kwargs, our_kwargs = twins.of(sample.constructor_input.kwargs)
        self.theirs = info.module_cls(*their_args, **their_kwargs).double().train(training)
        _spread(self.theirs)
        self.ours = load(cls(*our_args, **our_kwargs), self.theirs)
        twins.leaves.clear()
        self.their_args, self.our_args = twins.of(tuple(sample.forward_input.args))
        self.their_kwargs, self.our_kwargs = twins.of(sample.forward_input.kwargs)
        parameters = dict(self.ours.named_parameters())
        self.leaves = [(p, parameters[n]) for n, p in self.theirs.named_parameters() if p.requires_grad]
        self.leaves += twins.leaves

    def forward(self) -> tuple[Any, Any]:
        want = self.theirs(*self.their_args, **self.their_kwargs)
        return self.ours(*self.our_args, **self.our_kwargs), want

    def check(self) -> None:
        """Outputs, gradients, buffers."""
        got, want = self.forward()
        check_same(got, want, "the output")
        check_gradients(got, want, self.leaves)
        buffers = dict(self.ours.named_buffers())
        for name, buffer in self.theirs.named_buffers():
            check_same(buffers.get(name), buffer, f"buffer {name}")

    def check_gradgrad(self) -> None:
        got, want = self.forward()
        if sum(t.numel() for t, _ in self.leaves) <= GRADGRAD_SIZE:
            check_gradgrad(got, want, self.leaves)


def _spread(module: Any) -> None:
    """Biases of zero and weights of one would hide mistakes: add a little to each parameter."""
    rng = np.random.default_rng(3)
    with torch.no_grad():
        for p in module.parameters():
            p += torch.from_numpy(np.asarray(rng.uniform(-0.1, 0.1, tuple(p.shape))))


def _check_copies(info: Any, cls: Any, sample: Any) -> None:
    """copy.deepcopy, pickle and repr of a module."""
    ours = _Pair(info, cls, sample, True).ours
    state = ours.state_dict()
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(twin) is cls
        assert twin.state_dict().keys() == state.keys()
        for name, value in twin.state_dict().items():
            np.testing.assert_array_equal(value.array, state[name].array)
    if cls.__name__ not in repr(ours):
        raise Mismatch(f"repr does not name the class: {ours!r}")


def _check_error(cls: Any, error: Any) -> None:
    """Raise Mismatch where dtrain takes what PyTorch refuses, or does not say what is wrong with it."""
    sample, twins = error.module_error_input, Twins()
    _, args = twins.of(tuple(sample.constructor_input.args))
    _, kwargs = twins.of(sample.constructor_input.kwargs)
    forward = sample.forward_input
    _, given = twins.of((tuple(forward.args), forward.kwargs)) if forward is not None else (None, ((), {}))

    def call() -> None:
        ours = cls(*args, **kwargs)
        if forward is not None:
            if isinstance(ours, nn.Module) and any(True for _ in ours.parameters()):
                ours.double()
            with dtrain.no_grad():
                ours(*given[0], **given[1])

    check_refused(call, given, error.error_regex)
