"""A whole training step captured once for inputs of some shapes: on a GPU as a CUDA graph, on a CPU as its calls."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from dtrain.autograd import Tape, Tensor, map_tensors
from dtrain.autograd.mode import mode
from dtrain.backend import capture as captures
from dtrain.backend import device_of, on_gpu
from dtrain.backend.gpus import current_stream, new_stream, pinned_zeros

__all__ = ["CapturedStep", "capture"]

_WARM_UPS = 3  # what is done once, or the first time only, is done by then; the last of them is the rehearsal
_BYTES_OF_NUMBERS = 1 << 16


class CapturedStep:
    """`step`, a function of Tensors, Python values, and lists, tuples and dicts of these, without its Python's time.

        def step(x, y):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss

        step = job.capture(step)
        for x, y in loader:
            loss = step(x, y)

    A call gives what `step` itself would give, to the bit. The first calls with inputs of some shapes run it as it is;
    then it is captured. On a GPU it becomes a CUDA graph, and later calls copy the inputs' values, from the host too,
    and start its kernels all at once. On a CPU it becomes the list of the calls that its operations make, to be read in
    `source`, without modules, tensors and the graph of autograd (see `dtrain.autograd.tape`). Small models spend most
    of their time on what is gone then.

    The step must do the same at every call, and by itself all that is to be done at each: backward, the optimizer's
    step and `zero_grad`; the model's and the optimizer's state may be looked at or loaded in between, a schedule's step
    comes in between, too. What it does beside dtrain's functions (Python's numbers that it counts, NumPy arrays that it
    changes) is done while it is captured, and not again. Tensors that it returns have no graph; on a GPU the next call
    overwrites them.

    Where the step cannot be captured, a line on standard error says why, once, and it goes on being run as it is: where
    values are looked at (`loss.item()`), with sizes that depend on values (`masked_select`), SyncBatchNorm, activation
    checkpoints, `no_sync()`, DiLoCo, a ledger; on a GPU with optimizers that are not elementwise and gradients that go
    by way of the host's memory; on a CPU with a GradScaler, and where the step keeps tensors or makes them from
    NumPy's arrays. With DistributedDataParallel a rank's microbatches of a step belong into one call. With a
    GradScaler each start of a graph waits for the one before: whether its step counts has to be known.

    Attributes: captured, how many steps there are, one for each kind of inputs; reason, why there is none, or None;
    source, what the newest one of a CPU does, as Python's text.
    """

    def __init__(self, step: Callable[..., Any], on_device: bool) -> None:
        self.step = step
        self.reason: str | None = None
        self.source = ""
        self._on_device = on_device
        self._calls: dict[Any, int] = {}
        self._made: dict[Any, _Graph | _Calls] = {}
        self._known: dict[Any, Any] = {}
        self._stream: Any = None

    @property
    def captured(self) -> int:
        """How many captured steps there are: one for each kind of inputs that has come often enough."""
        return len(self._made)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What step(*args, **kwargs) returns."""
        if self._on_device:
            args, kwargs = map_tensors(_to_gpu, (args, kwargs))
        if self.reason is not None or mode.tape is not None:
            return self.step(*args, **kwargs)
        leaves: list[Tensor] = []
        kind = _kind((mode.enabled, mode.autocast, kwargs, *args), leaves)
        made = self._made.get(kind)
        if made is not None and not made.still_fits():
            del self._made[kind]
            self._calls[kind], made = _WARM_UPS - 1, None  # rehearsed, and captured again
        if made is not None:
            return made.start(leaves)
        calls = self._calls[kind] = self._calls.get(kind, 0) + 1
        if calls < _WARM_UPS:
            return self.step(*args, **kwargs)
        if not self._on_device:
            return self._note(kind, args, kwargs)
        if calls == _WARM_UPS:
            with captures.under(captures.Capture(rehearsing=True)) as rehearsal:
                result = self.step(*args, **kwargs)
            if rehearsal.reasons:
                self._give_up(rehearsal.reasons[0])
            return result
        return self._capture(kind, args, kwargs)

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        print(f"dtrain: the step is not captured, and runs as it is: {reason}", file=sys.stderr)

    def _note(self, kind: Any, args: Any, kwargs: Any) -> Any:
        """A step, and what it calls: the first time to see which tensors are there before it, then for good."""
        tape = Tape(self._known.get(kind))
        result = tape.note(self.step, args, kwargs)
        if tape.reason is not None:
            self._give_up(tape.reason)
        elif kind in self._known:
            del self._known[kind]
            self._made[kind], self.source = _Calls(tape, result), tape.source
        else:
            self._known[kind] = tape
        return result

    def _capture(self, kind: Any, args: Any, kwargs: Any) -> Any:
        import cupy

        if self._stream is None:
            self._stream = new_stream()
        host = pinned_zeros((_BYTES_OF_NUMBERS,), np.dtype(np.uint8))
        device = cupy.zeros(_BYTES_OF_NUMBERS, np.uint8)
        inputs: list[Tensor] = []

        def static(x: Tensor) -> Tensor:
            inputs.append(_twin(x))
            return inputs[-1]

        args, kwargs = map_tensors(static, (args, kwargs))
        pool = cupy.cuda.MemoryPool()  # of the graph's own: what it uses is nobody else's between two starts
        self._stream.wait_event(current_stream().record())
        record = captures.Capture(rehearsing=False, host=host, device=device)
        with self._stream, cupy.cuda.using_allocator(pool.malloc), captures.under(record):
            self._stream.begin_capture()
            try:
                result = self.step(*args, **kwargs)
            except Exception as error:
                with suppress(RuntimeError):  # that the capture is spoiled, is known
                    self._stream.end_capture()
                error.add_note("while the step was captured as a CUDA graph: call it without capture() if it cannot be")
                raise
            made = self._stream.end_capture()
        graph = self._made[kind] = _Graph(made, record, inputs, result, pool)
        return graph.launch()


def capture(step: Callable[..., Any]) -> CapturedStep:
    """`step`, a function that makes a whole training step on the CPU, captured: see CapturedStep. On a GPU it is

    `dtrain.cuda.capture`, in a job `job.capture`.
    """
    return CapturedStep(step, False)


class _Calls:
    """A captured step of a CPU."""

    def __init__(self, tape: Tape, result: Any) -> None:
        self.calls = tape.compiled()
        self.leaves, self.modules = list(tape.leaves.values()), list(tape.modules.values())
        self.inputs = tape.given_whole()
        self.result = map_tensors(lambda t: Tensor(np.empty(0)), result)  # its structure

    def still_fits(self) -> bool:
        """Whether the step would use the same memory, and modules in the same mode."""
        for tensor, array in self.leaves:  # noqa: SIM110  (faster than all())
            if tensor.array is not array:
                return False
        for module, training in self.modules:  # noqa: SIM110
            if module.training is not training:
                return False
        return True

    def start(self, leaves: list[Tensor]) -> Any:
        """A step with these inputs."""
        for i, mine in self.inputs:
            mine.array = leaves[i].array
            if hasattr(leaves[i], "microbatch"):
                mine.microbatch = leaves[i].microbatch
        arrays = self.calls(*[t.array for t in leaves])
        if isinstance(self.result, Tensor):
            return Tensor(arrays[0])
        rest = iter(arrays)
        return map_tensors(lambda t: Tensor(next(rest)), self.result)


class _Graph:
    """A captured step."""

    def __init__(self, graph: Any, record: captures.Capture, inputs: list[Tensor], result: Any, pool: Any) -> None:
        self.graph, self.record, self.inputs, self.result, self.pool = graph, record, inputs, result, pool
        # Numbers on their way to the GPU, by turns: a start may come while those of the one before travel.
        self.turns = [(pinned_zeros((max(16, record.used),), np.dtype(np.uint8)), None) for _ in range(4)]

    def still_fits(self) -> bool:
        """Whether the step would do the same; writes the numbers of its optimizers."""
        try:
            for check in self.record.checks:
                check()
        except captures.NotCapturable:
            return False
        return True

    def start(self, leaves: list[Tensor]) -> Any:
        """A step with these inputs."""
        for mine, given in zip(self.inputs, leaves, strict=True):
            mine.array[...] = given.array
            if hasattr(given, "microbatch"):
                mine.microbatch = given.microbatch
        for effect in self.record.effects:
            effect()
        return self.launch()

    def launch(self) -> Any:
        record, used = self.record, self.record.used
        assert record.host is not None
        if used:
            room, event = self.turns.pop(0)
            if event is not None:
                event.synchronize()
            room[:used] = record.host[:used]
            record.device[:used].set(room[:used])
            self.turns.append((room, current_stream().record()))
        stream = current_stream()
        self.graph.launch(stream)
        record.finished = stream.record()
        return self.result


def _kind(values: Any, leaves: list[Tensor]) -> Any:
    """What captured steps are told apart by: shapes, dtypes and places of Tensors, values of all else."""
    kinds: list[Any] = []
    for value in values:
        if isinstance(value, Tensor):
            leaves.append(value)
            array = value.array
            place = None if array.__class__ is np.ndarray else device_of(array)
            kinds.append((array.shape, array.dtype.type, place, value.requires_grad))  # a dtype's hash is slow
        elif isinstance(value, (list, tuple)):
            kinds.append((type(value), _kind(value, leaves)))
        elif isinstance(value, dict):
            kinds.append((*value, _kind(value.values(), leaves)) if value else None)
        else:
            simple = isinstance(value, (int, float, str, bool, type(None)))
            kinds.append((type(value), value if simple else id(value)))
    return tuple(kinds)


def _to_gpu(x: Tensor) -> Tensor:
    return x if on_gpu(x.array) else x.to("cuda")


def _twin(x: Tensor) -> Tensor:
    """A Tensor with the same values that stays where it is."""
    twin = Tensor(x.array.copy(), x.requires_grad)
    if hasattr(x, "microbatch"):
        twin.microbatch = x.microbatch
    return twin
