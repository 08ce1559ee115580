"""The libraries that compute: the last bits of results depend on which they are."""

from __future__ import annotations

import platform
from functools import cache

import numpy as np
from threadpoolctl import threadpool_info

from dtrain.backend import cpu

__all__ = ["versions"]


@cache
def versions() -> dict[str, str]:
    """Python, NumPy, its BLAS with the processor type that it has chosen, and oneDNN ("none" without it)."""
    infos = [b for b in threadpool_info() if b["user_api"] == "blas"]
    blas = [f"{b['internal_api']} {b['version']} {b.get('architecture', '')}" for b in infos]
    found = {"python": platform.python_version(), "numpy": np.__version__, "blas": ", ".join(sorted(blas))}
    return found | {"oneDNN": cpu.version() or "none"}
