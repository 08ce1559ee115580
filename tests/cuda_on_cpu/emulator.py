"""Kernels of CUDA C++ on the CPU: a `.cu` source is compiled by g++ with the headers in `headers/`, and runs on NumPy.

`Module(source, names).get_function(name)(grid, block, args)` is called as a kernel of CuPy is. Inside of
`checking(...)` threads run in another order, and every array lies between two red zones.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["EmulatorError", "Function", "Module", "checking", "why_not"]

_HEADERS = Path(__file__).parent / "headers"
_FLAGS = ["-std=c++17", "-O2", "-fPIC", "-shared", "-fno-strict-aliasing", "-fno-threadsafe-statics",
          "-fvisibility=hidden", "-ffp-contract=off", "-w", f"-I{_HEADERS}"]  # fmt: skip
_SANITIZED = ["-fsanitize=address", "-fno-omit-frame-pointer"]
_SCHEDULES = {"forward": 0, "reverse": 1, "random": 2}
_RED = 0xFF  # read as a float it is NaN


class EmulatorError(RuntimeError):
    """What a GPU would do wrong without a word, or how it would hang."""


@dataclass
class _Checks:
    schedule: str = "forward"
    seed: int = 1
    guard: int = 0


_checks = _Checks()
_one_at_a_time = threading.Lock()  # ranks may be threads


@contextmanager
def checking(schedule: str = "forward", seed: int = 1, guard: int = 256) -> Iterator[None]:
    """Inside, threads run in this order ("forward", "reverse", "random"), with `guard` bytes around every array."""
    global _checks
    before, _checks = _checks, _Checks(schedule, seed, guard)
    try:
        yield
    finally:
        _checks = before


def why_not() -> str | None:
    """Why kernels cannot be run on this machine's CPU; None if they can."""
    if os.uname().machine not in ("x86_64", "aarch64"):
        return f"the emulator does not know how to switch stacks on {os.uname().machine}"
    return None if shutil.which("g++") else "g++ is not installed"


class Module:
    """The kernels `names` ("softmax<float, true>") of a source."""

    stacks: int | None = None  # of the threads of all kernels

    def __init__(self, source: str, names: Sequence[str]) -> None:
        self.library = ctypes.CDLL(str(_compiled(source, tuple(names))))
        self.library.emulator_error.restype = ctypes.c_char_p
        self.library.emulator_stacks.restype = ctypes.c_void_p
        Module.stacks = self.library.emulator_stacks(ctypes.c_void_p(Module.stacks))
        self.names = list(names)

    def get_function(self, name: str) -> Function:
        return Function(self.library, name, self.names.index(name))


class Function:
    """A kernel."""

    def __init__(self, library: Any, name: str, number: int) -> None:
        self.library, self.name = library, name
        self.run = getattr(library, f"run_{number}")
        self.run.restype = ctypes.c_bool
        signature = getattr(library, f"signature_{number}")
        signature.restype = ctypes.c_char_p
        self.parameters = signature().decode().split()

    def __call__(
        self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared_mem: int = 0, stream: Any = None
    ) -> None:
        if len(args) != len(self.parameters):
            raise EmulatorError(f"{self.name} has {len(self.parameters)} parameters, got {len(args)} arguments")
        rooms = [self._room(i, a) for i, a in enumerate(args)]
        pointers = (ctypes.c_void_p * len(rooms))(*(room.argument.ctypes.data for room in rooms))
        three = [(ctypes.c_uint * 3)(*(tuple(sizes) + (1, 1))[:3]) for sizes in (grid, block)]
        with _one_at_a_time:
            self.library.emulator_schedule(_SCHEDULES[_checks.schedule], ctypes.c_ulong(_checks.seed))
            if not self.run(*three, ctypes.c_ulong(shared_mem), pointers):
                raise EmulatorError(f"{self.name}: {self.library.emulator_error().decode()}")
        for i, room in enumerate(rooms):
            if not room.give_back():
                raise EmulatorError(f"{self.name}: it writes outside of array {i}, {args[i].shape} {args[i].dtype}")

    def _room(self, i: int, value: Any) -> _Room:
        """Where the i-th argument lies. CuPy hands over the bytes of a number as they are, so they must be right."""
        parameter = self.parameters[i]
        value = getattr(value, "_host", value)
        if isinstance(value, np.ndarray):
            if parameter != "P8":
                raise EmulatorError(f"{self.name}: argument {i} is an array, the parameter {parameter}")
            return _Array(value)
        if isinstance(value, (bool, np.bool_)):
            value = np.bool_(value)
        elif isinstance(value, int):
            value = np.int64(value)
        elif isinstance(value, float):
            value = np.float64(value)
        if not isinstance(value, np.generic):
            raise EmulatorError(f"{self.name}: argument {i} is a {type(value).__name__}")
        integer = value.dtype.kind in "iub"
        if value.nbytes != int(parameter[1:]) or integer != (parameter[0] in "iuP") and parameter[0] != "s":
            raise EmulatorError(f"{self.name}: argument {i} is {value.dtype}, the parameter {parameter}")
        return _Room(np.asarray(value).reshape(1))


class _Room:
    """The bytes of an argument."""

    def __init__(self, argument: np.ndarray) -> None:
        self.argument = argument

    def give_back(self) -> bool:
        return True


class _Array(_Room):
    """A pointer to an array, which lies between red zones if its memory is whole."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.zones = array, None
        address = array.ctypes.data
        if _checks.guard and array.flags.c_contiguous and array.flags.writeable:
            guard = -(-_checks.guard // 64) * 64
            room = np.full(array.nbytes + 2 * guard + 64, _RED, np.uint8)
            start = -room.ctypes.data % 64 + guard
            room[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
            self.zones = room[:start], room[start : start + array.nbytes], room[start + array.nbytes :]
            address = room.ctypes.data + start
        super().__init__(np.array([address], np.uint64))

    def give_back(self) -> bool:
        if self.zones is None:
            return True
        before, inside, behind = self.zones
        self.array.reshape(-1).view(np.uint8)[:] = inside
        return bool((before == _RED).all() and (behind == _RED).all())


@cache
def _compiled(source: str, names: tuple[str, ...]) -> Path:
    """The library of these kernels, compiled once for all processes of this user."""
    flags = [*_FLAGS, *(_SANITIZED if os.environ.get("DTRAIN_EMULATOR_ASAN") else ())]
    text = _program(source, names)
    headers = "".join(h.read_text() for h in sorted(_HEADERS.iterdir()))
    key = hashlib.sha256("\0".join([text, headers, *flags]).encode()).hexdigest()[:32]
    folder = Path(tempfile.gettempdir()) / f"dtrain-cuda-on-cpu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{key}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as room:
            program, made = Path(room) / "kernels.cpp", Path(room) / "kernels.so"
            program.write_text(text)
            done = subprocess.run(["g++", *flags, str(program), "-o", str(made)], capture_output=True, text=True)
            if done.returncode:
                raise EmulatorError(f"g++ cannot compile {', '.join(names)}:\n{done.stderr[:4000]}")
            made.rename(library)  # whole, or not there
    return library


def _program(source: str, names: tuple[str, ...]) -> str:
    """The source as a C++ program with two functions for each kernel: one runs it, one says what its parameters are."""
    parts = ["#define DTRAIN_CPU 1", source, '#define EXPORTED extern "C" __attribute__((visibility("default")))']
    for i, name in enumerate(names):
        parts.append(
            f"EXPORTED bool run_{i}(const unsigned* grid, const unsigned* block, unsigned long shared, void** args) "
            f"{{ return emulator::launch(&{name}, grid, block, shared, args); }}\n"
            f"EXPORTED const char* signature_{i}() "
            f"{{ static std::string s = emulator::signature(&{name}); return s.c_str(); }}"
        )
    parts.append(
        "EXPORTED const char* emulator_error() { return emulator::error; }\n"
        "EXPORTED void* emulator_stacks(void* given) { "
        "auto* stacks = static_cast<std::vector<char*>*>(given); "
        "return emulator::shared_stacks = stacks ? stacks : new std::vector<char*>; }\n"
        "EXPORTED void emulator_schedule(int schedule, unsigned long seed) { "
        "emulator::schedule = emulator::Schedule(schedule); emulator::shuffler = emulator::Shuffler(seed); }\n"
    )
    return re.sub(r"^#pragma once$", "", "\n".join(parts), flags=re.M)
