"""What malloc does with freed memory after `keep_freed_memory`, and in which pages it lies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.jobs import environment

PROGRAM = """
import resource
import sys

import numpy as np

from launch.memory import keep_freed_memory

limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def fill():
    arrays = [np.ones(1 << 18, np.float32) for _ in range(96)]  # 1 MiB each
    big = np.ones(10 << 20, np.float32)  # which malloc would map, and give back, by itself

start = faults()
fill()
first, start = faults() - start, faults()
fill()
again = faults() - start
def mib(file, name):
    return next(int(line.split()[1]) // 1024 for line in open(file) if line.startswith(name + ":"))

print(first, again, mib("/proc/self/smaps_rollup", "AnonHugePages"), mib("/proc/self/status", "VmSize"))
"""


def run(limit: int) -> list[int]:
    command = [sys.executable, "-c", PROGRAM, str(limit)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


@pytest.mark.parametrize("limit", [0, 3 << 30], ids=["addresses are free", "3 GiB of addresses"])
def test_freed_memory_is_not_asked_for_again(limit: int) -> None:
    first, again, _, size = run(limit)
    assert again < 200, f"the second time the system gave {again} pages, the first time {first}"
    if limit:
        assert size < limit >> 20, "what is not used has addresses of a process that may only have so many"


def test_it_lies_in_large_pages() -> None:
    mode = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not mode.exists() or "[never]" in mode.read_text():
        pytest.skip("this system has no large pages to give")
    first, _, huge, _ = run(0)
    assert huge >= 100, f"{huge} MiB of 136 are in large pages; the system gave {first} pages"
