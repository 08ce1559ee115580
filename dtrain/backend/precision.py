"""How exact products of float32 matrices are."""

from __future__ import annotations

__all__ = ["get_float32_matmul_precision", "set_float32_matmul_precision"]

_precision = "highest"


def set_float32_matmul_precision(precision: str) -> None:
    """How GPUs multiply float32 matrices: in float32 with "highest" (the default), in TF32 with "high" and "medium".

    TF32 has the range of float32 and 10 bits of fraction; sums stay in float32. PyTorch's "medium" may be bfloat16. On
    a CPU it is float32 always. Raises ValueError for another word.
    """
    global _precision
    if precision not in ("highest", "high", "medium"):
        raise ValueError(f"precision must be 'highest', 'high' or 'medium', got {precision!r}")
    _precision = precision


def get_float32_matmul_precision() -> str:
    """The word that was set last, or "highest"."""
    return _precision
