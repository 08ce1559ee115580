"""Zip archives, which PyTorch's files and NumPy's .npz are: what goes wrong in one is a ValueError with its name."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from struct import error as StructError

__all__ = ["damage_of"]

_ERRORS = (
    zipfile.BadZipFile, zlib.error, StructError, ArithmeticError, EOFError, LookupError, MemoryError, OSError,
    RuntimeError, ValueError,
)  # fmt: skip


@contextmanager
def damage_of(what: str) -> Iterator[None]:
    """`with damage_of("x.npz: w.npy"): ...`: all that reading an archive raises becomes a ValueError about this."""
    try:
        yield
    except _ERRORS as error:  # NotImplementedError, of versions and methods that do not exist, is a RuntimeError
        raise ValueError(f"{what} is damaged or cut off: {error}") from None
