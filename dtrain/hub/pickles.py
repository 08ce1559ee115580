"""Pickles of plain data, read by a machine of our own: nothing that a pickle names is imported, called or built.

Python's unpickler does what a pickle tells it to do, which may be anything. This one knows the opcodes that make
numbers, text, lists, dicts, tuples and sets, and looks what a pickle names up in a table: a value, or one of our own
functions (a `Call`). What is not in the table ends the reading, with its name.
"""

from __future__ import annotations

import pickle
import pickletools
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

__all__ = ["Call", "read_pickle"]


class Call:
    """A function that pickles may call; what it raises (ValueError, TypeError) is reported with the file's name."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


def read_pickle(
    file: BinaryIO | Any, name: str, table: Mapping[str, Any], persistent: Callable[[Any], Any] | None = None
) -> Any:
    """The object of the pickle that begins at the file's position; the file is then behind it.

    file: has read and readline, and does not allocate more than it holds (BytesIO, mmap). name: of the file, for
    errors. table: what may be named, by "module.name"; a value that is an Exception is raised. persistent: makes an
    object from a persistent id.
    Raises pickle.UnpicklingError that names the file and what it asks for, or where it is damaged or cut off.
    """
    machine = _Machine(table, persistent)
    at, operation = 0, "its beginning"
    try:
        for opcode, argument, position in pickletools.genops(file):
            at, operation = position or 0, opcode.name
            if operation == "STOP":
                return machine.pop()
            machine.step(operation, argument)
        raise ValueError("it has no end")
    except _Refused as refusal:
        raise pickle.UnpicklingError(f"{name}: {refusal}") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise pickle.UnpicklingError(
            f"{name}: the pickle in it is damaged or cut off, at or after byte {at:,} ({operation}): {error}"
        ) from None


class _Refused(Exception):
    """What the pickle asks for is not done."""


_WHAT_TO_DO = (
    "dtrain reads numbers, text, lists, dicts and tensors, and runs nothing that a file asks for. If it is a file that "
    "you trust, load it with PyTorch and save what is to be kept as plain data: torch.save(model.state_dict(), path)"
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_SCALARS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS = (
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
)  # fmt: skip
_KEYS = (str, int, float, bool, bytes, type(None))


class _Machine:
    """A stack, marks in it, and a memo; `step` does what one opcode says."""

    def __init__(self, table: Mapping[str, Any], persistent: Callable[[Any], Any] | None) -> None:
        self.table, self.persistent = table, persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if not self.stack:
            raise ValueError("a value is missing")
        return self.stack.pop()

    def top(self, *kinds: type) -> Any:
        """The last value, which is of one of these types, if there are any."""
        if not self.stack:
            raise ValueError("a value is missing")
        value = self.stack[-1]
        if kinds and type(value) not in kinds:
            raise ValueError(f"a {type(value).__name__} where a {kinds[0].__name__} is expected")
        return value

    def pop_mark(self) -> list[Any]:
        """The values since the last mark."""
        if not self.marks:
            raise ValueError("a mark is missing")
        values, self.stack = self.stack, self.marks.pop()
        return values

    def step(self, operation: str, argument: Any) -> None:
        """Do what one opcode says."""
        if operation in _SCALARS or operation in _TEXTS:
            self.stack.append(argument)
        elif operation in _CONSTANTS:
            self.stack.append(_CONSTANTS[operation])
        else:
            method = getattr(self, f"do_{operation.lower()}", None)
            if method is None:
                raise _Refused(f"the pickle in it has the opcode {operation}{_with(argument)}. {_WHAT_TO_DO}")
            method(argument)

    # -- what is named, called and built ---------------------------------------------------------

    def named(self, name: str) -> None:
        """The value of the table under this name."""
        found = self.table.get(name, self)
        if found is self:
            raise _Refused(f"it asks for {name}, which is not done. {_WHAT_TO_DO}")
        if isinstance(found, Exception):
            raise _Refused(f"it asks for {name}: {found}")
        self.stack.append(found)

    def do_global(self, argument: str) -> None:
        self.named(argument.replace(" ", ".", 1))

    def do_stack_global(self, _: None) -> None:
        name, module = self.pop(), self.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("a name that is not text")
        self.named(f"{module}.{name}")

    def do_reduce(self, _: None) -> None:
        arguments, call = self.pop(), self.pop()
        if not isinstance(call, Call):
            raise _Refused(f"it calls a {type(call).__name__}. {_WHAT_TO_DO}")
        if type(arguments) is not tuple:
            raise ValueError("arguments that are not a tuple")
        self.stack.append(call.function(*arguments))

    def do_build(self, _: None) -> None:
        state, value = self.pop(), self.top()
        if type(value) is not OrderedDict or type(state) is not dict:
            raise _Refused(f"it sets attributes of a {type(value).__name__}. {_WHAT_TO_DO}")
        if "_metadata" in state:  # the versions of layers, in what Module.state_dict gives
            value._metadata = state["_metadata"]  # type: ignore[attr-defined]

    def do_binpersid(self, _: None) -> None:
        if self.persistent is None:
            raise ValueError("a persistent id where there is none")
        self.stack.append(self.persistent(self.pop()))

    # -- containers ------------------------------------------------------------------------------

    def do_empty_dict(self, _: None) -> None:
        self.stack.append({})

    def do_empty_list(self, _: None) -> None:
        self.stack.append([])

    def do_empty_set(self, _: None) -> None:
        self.stack.append(set())

    def do_dict(self, _: None) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self.set_items(items)

    def do_list(self, _: None) -> None:
        items = self.pop_mark()
        self.stack.append(items)

    def do_frozenset(self, _: None) -> None:
        items = self.pop_mark()
        self.stack.append(frozenset(map(_key, items)))

    def do_tuple(self, _: None) -> None:
        items = self.pop_mark()
        self.stack.append(tuple(items))

    def do_tuple1(self, _: None) -> None:
        self.stack.append((self.pop(),))

    def do_tuple2(self, _: None) -> None:
        second, first = self.pop(), self.pop()
        self.stack.append((first, second))

    def do_tuple3(self, _: None) -> None:
        third, second, first = self.pop(), self.pop(), self.pop()
        self.stack.append((first, second, third))

    def do_append(self, _: None) -> None:
        value = self.pop()
        self.top(list).append(value)

    def do_appends(self, _: None) -> None:
        items = self.pop_mark()
        self.top(list).extend(items)

    def do_additems(self, _: None) -> None:
        items = self.pop_mark()
        self.top(set).update(map(_key, items))

    def do_setitem(self, _: None) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def do_setitems(self, _: None) -> None:
        self.set_items(self.pop_mark())

    def set_items(self, items: list[Any]) -> None:
        """Keys and values in turn, for the dict on top."""
        if len(items) % 2:
            raise ValueError("a key without a value")
        self.top(dict, OrderedDict, Counter).update(zip(map(_key, items[::2]), items[1::2], strict=True))

    # -- stack and memo --------------------------------------------------------------------------

    def do_mark(self, _: None) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def do_pop(self, _: None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def do_pop_mark(self, _: None) -> None:
        self.pop_mark()

    def do_memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.top()

    def do_put(self, number: int) -> None:
        self.memo[number] = self.top()

    do_binput = do_long_binput = do_put

    def do_get(self, number: int) -> None:
        self.stack.append(self.memo[number])

    do_binget = do_long_binget = do_get

    def do_proto(self, _: int) -> None:
        pass

    do_frame = do_proto


def _key(key: Any) -> Any:
    """`key`, if it may be one of a dict or a member of a set: text, a number, or a flat tuple of such.

    Nothing deeper: to hash tuples of tuples that a hostile pickle shares takes for ever.
    """
    if type(key) in _KEYS or (type(key) is tuple and all(type(part) in _KEYS for part in key)):
        return key
    raise _Refused(f"a {type(key).__name__} is a key of a dict in it, or in a set. {_WHAT_TO_DO}")


def _with(argument: Any) -> str:
    """What comes with a refused opcode."""
    return "" if argument is None else f" with {str(argument)[:80]!r}"
