"""A step on a CPU written down as the calls that it makes, which then are made again without the rest of its Python.

While a step is noted it runs as ever, but the arrays of its tensors are stand-ins, `Noted`. Each op, each pullback and
each function under `@as_one_call` is run with the arrays themselves and written down, as a line of a Python function;
`Tape.compiled()` is that. It makes the same calls in the same order, with the arrays of the next step:

    def replay(v0, v1):
        v2, v3 = linear(v0, c1, c2)
        v4, v5 = cross_entropy(v2, v1)
        v6 = v5[0](c3)
        ...

so what calls decide by values, and what they change, is decided and changed each time. Nothing is written down of
what is done with a stand-in in any other way: it has the values, and the tape has a `reason` why it cannot be replayed.
"""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np

from dtrain.autograd.mode import mode
from dtrain.autograd.nested import map_tensors
from dtrain.autograd.noted import Later, Noted
from dtrain.autograd.pullbacks import Into, Joint
from dtrain.autograd.tensor import Tensor
from dtrain.autograd.under_way import under_way
from dtrain.backend import capture, on_gpu

__all__ = ["Tape", "as_one_call", "constant"]

_VARIABLE = re.compile(r"\bv\d+\b")
_PLAIN = (bool, int, str, type(None))


def as_one_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """While a step is noted, what this function does is one call: for what uses arrays or changes state by itself.

    Its Tensors and arrays may be arguments, or among those of lists and tuples; all else of it stays as it is.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        tape = mode.tape
        return function(*args, **kwargs) if tape is None else tape.call(function, args, kwargs)

    return call


@as_one_call
def constant(array: Any) -> Tensor:
    """A tensor of a copy of an array that a function makes, the same at every call with arguments of these shapes."""
    return Tensor(np.array(array))


class Tape:
    """The calls of one step. before: the tape of the same step at an earlier call.

    Both must have the same calls, and use the same arrays, beside what the step is given and what it makes itself by
    calls: others would be those of this step alone. reason: why the step cannot be replayed, or None.
    """

    def __init__(self, before: Tape | None = None) -> None:
        self.before = before
        self.reason: str | None = None
        self.arrays: dict[int, Any] = {}  # of tensors that are not made here, by id
        self.leaves: dict[int, tuple[Tensor, Any]] = {}  # these tensors, and their arrays
        self.modules: dict[int, tuple[Any, bool]] = {}  # that are called, and whether they are in training
        self.given: dict[int, Tensor] = {}  # the step's own tensors -> those that a replay is given
        self.source = ""
        self._inputs: list[str] = []
        self._returned = ""
        self._made: list[weakref.ref[Tensor]] = []
        self._things: dict[str, Any] = {}
        self._texts: dict[int, str] = {}
        self._lines: list[tuple[int, str]] = []  # how deep, and what
        self._depth = 1
        self._count = 0

    def give_up(self, reason: str) -> None:
        """The step cannot be replayed."""
        if self.reason is None:
            self.reason = reason

    def array_of(self, tensor: Tensor) -> Any:
        """The stand-in for a tensor's array."""
        array = tensor.array
        if array.__class__ is Noted:
            return array
        if on_gpu(array):
            self.give_up("tensors are on a GPU")
        if self.before is not None and id(array) not in self.before.arrays:
            self.give_up(
                f"a tensor of shape {array.shape} is made in the step by something else than dtrain's functions"
            )
        self.arrays[id(array)] = array
        self.leaves[id(tensor)] = tensor, array
        return Noted(self, array, self._thing(array))

    def made(self, tensor: Tensor, array: Noted) -> Any:
        """The array for a tensor that is being made of a stand-in."""
        self._made.append(weakref.ref(tensor))
        return array if isinstance(array.value, np.ndarray) else self.call(np.asarray, (array,))

    # -- what is noted ---------------------------------------------------------------------------

    def call(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any] | None = None) -> Any:
        """What function(*args, **kwargs) returns, its arrays and functions being stand-ins."""
        values, texts = self._arguments(args)
        named = {}
        for name, value in (kwargs or {}).items():
            named[name], text = self._argument(value)
            texts.append(f"{name}={text}")
        if function.__class__ is Later:
            function, text = function.value, function.text
        else:
            text = self._thing(function)
        before, mode.tape = mode.tape, None
        try:
            with capture.under(None):
                result = function(*values, **named)
        finally:
            mode.tape = before
        text = f"{text}({', '.join(texts)})"
        if result.__class__ is tuple and result:
            names = [self._variable() for _ in result]
            self._line(f"{', '.join(names)}{',' * (len(names) == 1)} = {text}")
            return tuple(map(self._result, result, names))
        if result is None or isinstance(result, _PLAIN):
            self._line(text)
            return result
        name = self._variable()
        self._line(f"{name} = {text}")
        return self._result(result, name)

    @contextmanager
    def backward(self, root: Tensor) -> Iterator[None]:
        """A backward pass from `root`, for calls that ask for it."""
        values, texts = self._arguments([root])
        self._depth += 1
        start = len(self._lines)
        with under_way(*values) as walk:
            yield
        self._depth -= 1
        if walk.asked:
            self._lines.insert(start, (self._depth, f"with {self._thing(under_way)}({texts[0]}):"))
        else:
            self._lines[start:] = [(depth - 1, text) for depth, text in self._lines[start:]]

    def _arguments(self, args: Sequence[Any]) -> tuple[list[Any], list[str]]:
        found = [self._argument(a) for a in args]
        return [value for value, _ in found], [text for _, text in found]

    def _argument(self, x: Any) -> tuple[Any, str]:
        """The thing itself, and what it is called."""
        if x.__class__ is Noted or x.__class__ is Later:
            return x.value, x.text
        if isinstance(x, Tensor):
            if id(x) in self.given:
                return self.given[id(x)], self._thing(self.given[id(x)])
            if x.array.__class__ is not Noted:
                self.array_of(x)
                return x, self._thing(x)
            return Tensor(x.array.value, x.requires_grad), f"{self._thing(Tensor)}({x.array.text}, {x.requires_grad})"
        if isinstance(x, Iterator):  # is used up by one call
            x = tuple(x)
        if isinstance(x, (list, tuple)) and any(isinstance(e, (Noted, Later, Tensor, list, tuple)) for e in x):
            values, texts = self._arguments(x)
            if isinstance(x, list):
                text = f"[{', '.join(texts)}]"
                return (values, text) if x.__class__ is list else (type(x)(values), f"{self._thing(type(x))}({text})")
            if hasattr(x, "_fields"):
                return type(x)(*values), f"{self._thing(type(x))}({', '.join(texts)})"
            return tuple(values), f"({', '.join(texts)}{',' * (len(x) == 1)})"
        if isinstance(x, dict):
            values, texts = self._arguments(list(x.values()))
            entries = ", ".join(f"{key!r}: {text}" for key, text in zip(x, texts, strict=True))
            return dict(zip(x, values, strict=True)), f"{{{entries}}}"
        return x, repr(x) if x.__class__ in _PLAIN else self._thing(x)

    def _result(self, x: Any, text: str) -> Any:
        if isinstance(x, (np.ndarray, np.generic)):
            return Noted(self, x, text)
        if isinstance(x, Tensor):
            return Tensor(Noted(self, x.array, f"{text}.array"), x.requires_grad)
        if isinstance(x, (Joint, Into)):
            return type(x)(Later(self, x.function, f"{text}.function"))
        if isinstance(x, (list, tuple)):
            parts = [self._result(e, f"{text}[{i}]") for i, e in enumerate(x)]
            return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
        if isinstance(x, (*_PLAIN, float, np.dtype)):
            return x
        if callable(x):
            return Later(self, x, text)
        self.give_up(f"a call returns a {type(x).__name__}")
        return x

    def _thing(self, x: Any) -> str:
        """The name of what stays the same from step to step."""
        text = self._texts.get(id(x))
        if text is None:
            text = getattr(x, "__name__", "c").strip("<>") if callable(x) else "c"
            if text in ("c", "lambda") or text in self._things or _VARIABLE.fullmatch(text):
                text = f"{text}{len(self._things)}"
            self._texts[id(x)], self._things[text] = text, x
        return text

    def _variable(self) -> str:
        self._count += 1
        return f"v{self._count - 1}"

    def _line(self, text: str) -> None:
        self._lines.append((self._depth, text))

    # -- a whole step ----------------------------------------------------------------------------

    def note(self, step: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """What step(*args, **kwargs) returns, its tensors without a graph; the tape then has its calls."""
        results: list[Tensor] = []
        args, kwargs = map_tensors(self._take, (args, kwargs))
        mode.tape = self
        try:
            with capture.under(capture.Capture(rehearsing=True)) as rehearsal:
                returned = step(*args, **kwargs)
            self.reason = next(iter(rehearsal.reasons), self.reason)
            map_tensors(results.append, returned)
            self._returned = f"[{', '.join(self.array_of(t).text for t in results)}]"
        except Exception as error:
            self._release()
            error.add_note("while a step was captured: call it without capture() if it cannot be")
            raise
        finally:
            mode.tape = None
        returned = map_tensors(_without_graph, returned)
        results.clear()
        del args, kwargs
        self._release()
        if self.before is not None and not self._repeats(self.before):
            self.give_up("it does not do the same, or not with the same numbers, at every call")
        self.before = None
        return returned

    def _repeats(self, before: Tape) -> bool:
        """Whether the calls are those of another tape, with the same numbers and arrays that are no tensor's."""
        return self._lines == before._lines and _same(self._things, before._things)

    def _take(self, tensor: Tensor) -> Tensor:
        """A tensor that the step is given, for one that a replay will be given in its place."""
        if tensor.requires_grad:
            self.give_up("a tensor that it is called with requires a gradient")
        text = self._variable()
        self._inputs.append(text)
        taken, replayed = Tensor(tensor.array), Tensor(tensor.array)
        taken.array = Noted(self, tensor.array, text)
        self.given[id(taken)] = replayed
        if hasattr(tensor, "microbatch"):
            taken.microbatch = replayed.microbatch = tensor.microbatch
        return taken

    def _release(self) -> None:
        """Give the tensors that the step has made and keeps their arrays."""
        if any(ref() is not None for ref in self._made):
            gc.collect()
        for tensor in (*(ref() for ref in self._made), *(tensor for tensor, _ in self.leaves.values())):
            if tensor is not None and tensor.array.__class__ is Noted:
                self.give_up(f"it keeps a tensor of shape {tensor.shape} that it does not return")
                tensor.array = tensor.array.value

    def given_whole(self) -> list[tuple[int, Tensor]]:
        """Those of the tensors that a replay is given which calls get as tensors, and the places of these."""
        return [(i, t) for i, t in enumerate(self.given.values()) if id(t) in self._texts]

    def compiled(self) -> Callable[..., list[Any]]:
        """The function that makes the calls: of the arrays of the tensors that the step was given, to its results'."""
        last: dict[str, int] = {}
        for i, (_, text) in enumerate(self._lines):
            last |= dict.fromkeys(_VARIABLE.findall(text), i)
        for name in _VARIABLE.findall(self._returned):
            last.pop(name, None)
        over: dict[int, list[str]] = {}
        for name, i in last.items():
            over.setdefault(i, []).append(name)
        lines = [f"def replay({', '.join(self._inputs)}):"]
        for i, (depth, text) in enumerate(self._lines):
            lines.append("    " * depth + text)
            if i in over:  # memory that is not needed any more is free
                lines.append("    " * (depth + text.endswith("):")) + f"del {', '.join(over[i])}")
        lines.append(f"    return {self._returned}")
        self.source = "\n".join(lines)
        things = dict(self._things)
        exec(compile(self.source, "<the calls of a step>", "exec"), things)
        return things["replay"]


def _without_graph(tensor: Tensor) -> Tensor:
    return Tensor(tensor.array.value) if tensor.array.__class__ is Noted else tensor


def _same(a: Any, b: Any) -> bool:
    """Whether numbers and arrays are the same ones, alone or in tuples and dicts; lists may be what calls fill."""
    if a is b or a.__class__ is not b.__class__:
        return a is b
    if isinstance(a, (np.ndarray, np.generic)):
        return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(x, b[key]) for key, x in a.items())
    return a == b or a != a if isinstance(a, (int, float, str, slice, np.dtype)) else True
