"""What a step frees is there for the next one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch.jobs import needs_mpi, run

FAULTS = """
import platform, resource
import numpy as np
import launch

def pages_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(n << 18, np.float32) for n in (1, 5, 40)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

job = launch.Job()
print("pages", [pages_of_a_step() for _ in range(4)][-1], platform.libc_ver()[0])
"""


@pytest.mark.parametrize("launcher", ["python", pytest.param("mpirun", marks=needs_mpi)])
def test_memory_is_not_asked_of_the_system_again(launcher: str, tmp_path: Path) -> None:
    ended = run(launcher, FAULTS, tmp_path, ranks=2)
    assert ended.code == 0
    lines = [line.split() for line in ended.output.splitlines() if line.startswith("pages")]
    assert lines
    for _, pages, library in lines:
        assert int(pages) < 100 or library != "glibc"  # else some hundreds of huge pages, or 12,000
