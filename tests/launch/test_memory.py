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


LARGE = """
import resource, sys
import numpy as np

limit = {limit}
if limit:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
import launch

def mib(file, name):
    return next(int(line.split()[1]) // 1024 for line in open(file) if line.startswith(name + ":"))

job = launch.Job()
arrays = [np.ones(1 << 18, np.float32) for _ in range(128)]  # 1 MiB each
print("MiB", mib("/proc/self/smaps_rollup", "AnonHugePages"), mib("/proc/self/status", "VmSize"))
"""


@pytest.mark.parametrize("limit", [0, 3 << 30], ids=["addresses are free", "3 GiB of addresses"])
def test_it_lies_in_large_pages_where_a_process_may_have_the_addresses(limit: int, tmp_path: Path) -> None:
    mode = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not mode.exists() or "[never]" in mode.read_text():
        pytest.skip("this system has no large pages to give")
    ended = run("python", LARGE.format(limit=limit), tmp_path)
    assert ended.code == 0, ended.output
    large, addresses = next(map(int, s.split()[1:]) for s in ended.output.splitlines() if s.startswith("MiB"))
    if limit:
        assert addresses < limit >> 20, "what is not used has addresses of a process that may only have so many"
    else:
        assert large >= 100, f"{large} MiB of 128 are in large pages"
