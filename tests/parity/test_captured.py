"""Every module and function as a captured step of a CPU: the bits of the step as it is, or a reason why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain.autograd import map_tensors
from dtrain.captured import capture

CALLS, SAMPLES = 6, 2
#: Modules of which a sample is not captured: a mean of all batches, lengths that are looked at.
NOT_ALL = {"nn.BatchNorm1d", "nn.BatchNorm2d", "nn.BatchNorm3d", "nn.CTCLoss"}


class _Played:
    """What some calls of a function gave, with inputs that differ, as bytes: results, gradients, buffers."""

    def __init__(self, make: Callable[[], tuple[Any, Any, Any, Any]], captured: bool) -> None:
        dtrain.manual_seed(0)
        self.function, self.args, self.kwargs, self.module = make()
        given = _tensors((self.args, self.kwargs))
        self.factors = [
            dtrain.Tensor(np.ones(t.shape, t.dtype), t.requires_grad) if t.requires_grad else None for t in given
        ]
        self.run = capture(self.step) if captured else self.step
        self.found: list[Any] = []
        for i in range(CALLS):
            batch = [dtrain.Tensor(np.roll(t.array.reshape(-1), i).reshape(t.shape).copy()) for t in given]
            results = [t.array.tobytes() for t in self.run(batch)]
            self.found.append([*results, *(None if t.grad is None else t.grad.array.tobytes() for t in self.leaves())])
            if self.module is not None:
                self.found.append([b.array.tobytes() for b in self.module.buffers()])

    def leaves(self) -> Iterator[Any]:
        yield from (f for f in self.factors if f is not None)
        if self.module is not None:
            yield from self.module.parameters()

    def step(self, batch: list[Any]) -> list[Any]:
        pairs = zip(batch, self.factors, strict=True)
        inputs = iter([t if f is None else t * f for t, f in pairs])
        args, kwargs = map_tensors(lambda _: next(inputs), (self.args, self.kwargs))
        results = _tensors(self.function(*args, **kwargs))
        for t in results:
            if t.requires_grad and t.dtype.kind == "f":
                (t * t).sum().backward(retain_graph=True)
        return results


def _tensors(value: Any) -> list[Any]:
    found: list[Any] = []
    map_tensors(found.append, value)
    return found


def _check(make: Callable[[], tuple[Any, Any, Any, Any]]) -> str | None:
    """The reason why it is not captured."""
    try:
        expected = _Played(make, captured=False)
    except (ValueError, RuntimeError, IndexError, TypeError, np.linalg.LinAlgError):
        return "the sample's elements in another order are no input"
    played = _Played(make, captured=True)
    assert played.found == expected.found
    assert played.run.captured == (played.run.reason is None)
    return played.run.reason


def test_module(module_name: str, torch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.parity import modules
    from tests.parity.pytorch import modules as infos
    from tests.parity.pytorch import quiet, seeded

    info, cls = infos()[module_name], getattr(dtrain.nn, module_name.removeprefix("nn."), None)
    if cls is None:
        pytest.skip("not provided")
    with quiet():
        for training in (True, False):
            samples = seeded(
                lambda training=training: info.module_inputs_func(
                    info, device="cpu", dtype=torch.float64, requires_grad=True, training=training
                )
            )
            for sample in samples[:SAMPLES]:

                def make(sample: Any = sample, training: bool = training) -> Any:
                    torch.manual_seed(0)
                    pair = modules._Pair(info, cls, sample, training)
                    return pair.ours, pair.our_args, pair.our_kwargs, pair.ours

                assert _check(make) is None or module_name in NOT_ALL
    capsys.readouterr()


def test_function(op_name: str, torch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.parity import ops, scope
    from tests.parity.convert import Twins
    from tests.parity.pytorch import functions, quiet, seeded

    info = functions()[op_name]
    ours = ops.find(info)
    if ours is None or torch.float64 not in info.dtypes or "empty" in op_name:  # whose elements are any
        pytest.skip("not provided in float64")
    with quiet():
        grad = info.supports_autograd and op_name not in scope.WITHOUT_GRADIENTS
        samples = seeded(lambda: info.sample_inputs("cpu", torch.float64, requires_grad=grad))
        for sample in islice(scope.chosen(samples), SAMPLES):

            def make(sample: Any = sample) -> Any:
                twins = Twins()
                args = twins.of((sample.input, *sample.args))[1]
                return ours, args, twins.of(sample.kwargs)[1], None

            try:
                make()
            except scope.OutOfScope:
                continue
            _check(make)
    capsys.readouterr()
