"""What dtrain must say where PyTorch raises: an error of its own, and the shapes that do not fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import dtrain
from tests.parity.compare import Mismatch, tensors_of

__all__ = ["check_refused"]

# Errors that tell of an accident inside of a function, not of a check.
_ACCIDENTS = (AttributeError, NameError, AssertionError, ZeroDivisionError, RecursionError)
_NUMPYS = re.compile(r"operands could not be broadcast|numpy|tuple index out of range|cannot reshape array|'NoneType'")
_OF_SHAPES = re.compile(r"size of tensor|same (shape|size|number of dim)|[Ss]hapes?\b.* (match|same|broadcast)")


def check_refused(call: Callable[[], Any], arguments: Any, expected: str) -> None:
    """Raise Mismatch unless call() raises an error that says what is wrong.

    arguments: what it is given; expected: PyTorch's message, a regular expression. Where that tells of shapes, and
    there are two tensors, both shapes must be named.
    """
    try:
        call()
    except _ACCIDENTS as error:
        raise Mismatch(f"an accident, {type(error).__name__}: {error}, where PyTorch says: {expected}") from error
    except Exception as error:
        message = str(error)
        if _NUMPYS.search(message):
            raise Mismatch(f"NumPy's error, {message}, where PyTorch says: {expected}") from error
        shapes = [t.shape for t in tensors_of(arguments, dtrain.Tensor)]
        if len(shapes) == 2 and _OF_SHAPES.search(expected) and not all(str(s) in message for s in shapes):
            raise Mismatch(f"{message} does not name both of the shapes {shapes}") from error
        return
    raise Mismatch(f"no error, PyTorch's is: {expected}")
