"""The CUDA backend where there is no GPU: its kernels run on the CPU, its arrays are the stand-in's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cuda_on_cpu import cupy, emulator


@pytest.fixture
def gpu() -> Iterator[Any]:
    """The stand-in for CuPy, as `import cupy` finds it during the test."""
    if reason := emulator.why_not():
        pytest.skip(f"CUDA kernels cannot be run on this machine's CPU: {reason}")
    with cupy.installed() as module:
        yield module
