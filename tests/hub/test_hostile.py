"""Pickles that want more than to be read: nothing of it is done, and the error names it."""

from __future__ import annotations

import builtins
import copyreg
import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

import dtrain

from .files import legacy, number, storage, tensor, text, zipped

CONSEQUENCES: list[Any] = []


def consequence(*arguments: Any) -> None:
    """What no pickle can reach."""
    CONSEQUENCES.append(arguments)


class Reduced:
    """An object whose pickle calls what it likes."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.how = function, arguments

    def __reduce__(self) -> Any:
        return self.how


def opcodes(value: Any, protocol: int = 2) -> bytes:
    return pickle.dumps(value, protocol)[2:-1] if protocol else pickle.dumps(value, 0)[:-1]


HERE = __name__
ME = f"{HERE}.consequence"
CALL = f"c{HERE}\nconsequence\n".encode()

HOSTILE = {
    "os.system": (opcodes(Reduced(os.system, "exit 1")), r"\.system, which is not done"),
    "builtins.eval": (opcodes(Reduced(builtins.eval, "1")), r"(builtins|__builtin__)\.eval, which is not done"),
    "builtins.getattr": (b"cbuiltins\ngetattr\n(ctorch._utils\n_rebuild_tensor_v2\n" + text("x") + b"tR", "getattr"),
    "reduce": (opcodes(Reduced(consequence, 1)), ME),
    "reduce, protocol 0": (opcodes(Reduced(consequence, 1), 0), ME),
    "reduce, protocol 4": (pickle.dumps(Reduced(consequence, 1), 4)[2:-1], ME),
    "nested": (opcodes({"a": [({"b": Reduced(consequence)},)]}), ME),
    "as an argument": (b"ctorch\nSize\n(" + CALL + b")RtR", ME),
    "as a key": (b"}" + CALL + b")RNs", ME),
    "only named": (CALL, ME),
    "named, stack": (text(HERE) + text("consequence") + b"\x93", ME),
    "dotted name": (
        text("torch._utils") + text("_rebuild_tensor_v2.__globals__") + b"\x93",
        "__globals__, which is not",
    ),
    "inst": (f"(i{HERE}\nconsequence\n".encode(), f"opcode INST with '{HERE} consequence'"),
    "obj": (b"(" + CALL + b"o", ME),
    "obj of what is known": (b"(ctorch\nSize\no", "opcode OBJ"),
    "newobj": (f"c{HERE}\nReduced\n".encode() + b")\x81", f"{HERE}.Reduced"),
    "newobj of what is known": (b"ccollections\nOrderedDict\n)\x81", "opcode NEWOBJ"),
    "newobj_ex": (b"ccollections\nOrderedDict\n)}\x92", "opcode NEWOBJ_EX"),
    "ext1": (b"\x82\x01", "opcode EXT1 with '1'"),
    "ext2": (b"\x83\x01\x00", "opcode EXT2"),
    "ext4": (b"\x84\x01\x00\x00\x00", "opcode EXT4"),
    "build on a tensor": (tensor(storage(1), 0, (1,), (1,)) + b"}b", "sets attributes of a Tensor"),
    "build on a function": (b"ctorch\nSize\n}" + text("function") + b"Nsb", "sets attributes of a Call"),
    "build on a dtype": (b"ctorch\nfloat32\n}" + text("x") + b"Nsb", "sets attributes of a"),
    "build with slots": (
        b"ccollections\nOrderedDict\n)RN}" + text("clear") + b"Ns\x86b",
        "sets attributes of a Ordered",
    ),
    "call of a value": (text("x") + b")R", "calls a str"),
    "call of a type": (b"ctorch\nFloatStorage\n)R", "calls a Kind"),
    "a text persistent id": (b"Pmodule\n", "opcode PERSID"),
    "a buffer": (b"\x97", "opcode NEXT_BUFFER"),
    "from a type": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\nSize\nctorch\nTensor\n(" + number(1) + b"t}tR",
        "a tensor of a type of its own",
    ),
    "a tensor of text": (tensor(text("x"), 0, (1,), (1,)), "a tensor of a str"),
    "an OrderedDict of lists": (b"ccollections\nOrderedDict\n(](](]NeetR", "an OrderedDict of other than text"),
}


@pytest.mark.parametrize("make", [zipped, legacy])
@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_of_it_is_run(tmp_path: Path, make: Any, name: str) -> None:
    code, error = HOSTILE[name]
    (tmp_path / "hostile.pth").write_bytes(make(code, {"0": b"\x00" * 4}))
    for weights_only in (True, False):
        with pytest.raises(pickle.UnpicklingError, match=error) as caught:
            dtrain.load(tmp_path / "hostile.pth", weights_only=weights_only)
        assert "hostile.pth" in str(caught.value)
    assert CONSEQUENCES == []


def test_the_hostile_pickles_are_hostile() -> None:
    pickle.loads(pickle.dumps(Reduced(consequence, 1), 2))
    assert CONSEQUENCES.pop() == (1,)


def test_the_extension_registry_is_not_asked() -> None:
    copyreg.add_extension(HERE, "consequence", 0x7E57)
    try:
        code = pickle.dumps(Reduced(consequence, 1), 2)
        assert b"\x83\x57\x7e" in code
        with pytest.raises(pickle.UnpicklingError, match="opcode EXT2 with '32343'"):
            dtrain.load(io.BytesIO(zipped(code[2:-1])))
    finally:
        copyreg.remove_extension(HERE, "consequence", 0x7E57)
    assert CONSEQUENCES == []


def test_the_header_of_a_legacy_file() -> None:
    whole = legacy(b"N")
    third = pickle.dumps(Reduced(consequence), 2)
    header = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    for data in (header + third, whole[:-1] + third):
        with pytest.raises((pickle.UnpicklingError, ValueError)):
            dtrain.load(io.BytesIO(data))
    assert CONSEQUENCES == []


def test_what_would_take_for_ever_to_hash() -> None:
    code = b")" + b"2\x86" * 60  # ((((), ()), ((), ())), ...)
    for use in (b"}" + code + b"Ns", b"\x8f(" + code + b"\x90", b"(" + code + b"\x91"):
        with pytest.raises(pickle.UnpicklingError):
            dtrain.load(io.BytesIO(zipped(use)))


def test_what_is_nested_deeply() -> None:
    value = dtrain.load(io.BytesIO(zipped(b"]" * 100_000 + b"a" * 99_999)))
    for _ in range(99_999):
        (value,) = value
    assert value == []
