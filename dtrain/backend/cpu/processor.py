"""What this processor is good at: whether it multiplies bfloat16 faster than float32, and whose it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any

from dtrain.backend.halves import bfloat16, in_float32

__all__ = ["by_float32", "is_amd", "is_bfloat16_fast"]


@cache
def _description() -> str:
    """What Linux says of the first processor; nothing elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return ""


def is_amd() -> bool:
    """Whether AMD has made this processor."""
    return "AuthenticAMD" in _description()


def is_bfloat16_fast() -> bool:
    """Whether this processor multiplies matrices of bfloat16 faster than those of float32.

    With AMX, and AMD's with AVX512_BF16 do. Intel's with AVX512_BF16 alone do not (a Xeon, 1024 x 1024: 82 GFLOP/s, and
    144 in float32), nor do those where oneDNN has to convert.
    """
    text = _description()
    return "amx_bf16" in text or (is_amd() and "avx512_bf16" in text)


def by_float32(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """`@by_float32 def kernel(x, ...)`: arrays of bfloat16 go through float32 where that is faster."""
    wide = in_float32(kernel)

    @wraps(kernel)
    def call(x: Any, *args: Any, **out: Any) -> Any:
        is_slow = x.itemsize == 2 and x.dtype == bfloat16 and not is_bfloat16_fast()
        return (wide if is_slow else kernel)(x, *args, **out)

    return call
