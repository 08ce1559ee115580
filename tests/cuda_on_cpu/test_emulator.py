"""The emulator itself: what is right runs, and planted bugs are found."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from dtrain.backend.cuda.loader import HERE
from dtrain.backend.halves import bfloat16
from tests.cuda_on_cpu import emulator
from tests.cuda_on_cpu.emulator import EmulatorError, checking

pytestmark = pytest.mark.skipif(emulator.why_not() is not None, reason=f"no emulator: {emulator.why_not()}")

SCHEDULES = ("forward", "reverse", "random")
TOTALS = {"float": np.float32, "double": np.float64, "__half": np.float16, "__nv_bfloat16": bfloat16}
NAMES = [
    "transposed", "missing_barrier", "divergent_barrier", "return_before_barrier", "write_behind_array",
    "write_behind_shared", "lane_not_in_mask", "half_a_warp_waits", "read_behind_array",
    *(f"total<{t}>" for t in TOTALS),
]  # fmt: skip


@cache
def planted():
    text = (Path(__file__).parent / "planted.cu").read_text()
    return emulator.Module(text.replace('#include "common.cuh"', (HERE / "common.cuh").read_text()), NAMES)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_shared_memory_and_barriers(schedule):
    x, y = np.random.default_rng(0).standard_normal((70, 45)).astype(np.float32), np.zeros((45, 70), np.float32)
    with checking(schedule):
        planted().get_function("transposed")((3, 5), (16, 16), (x, y, np.int32(70), np.int32(45)))
    np.testing.assert_array_equal(y, x.T)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", TOTALS)
def test_warps_templates_and_halves(name, schedule):
    dtype = TOTALS[name]
    x = np.arange(1000).astype(dtype)
    y = np.zeros(1, np.float64 if dtype == np.float64 else np.float32)
    with checking(schedule):
        planted().get_function(f"total<{name}>")((1,), (96,), (x, y, np.int32(1000)))
    assert y[0] == x.astype(np.float64).sum()


def test_a_missing_barrier_is_seen():
    found = []
    for schedule in SCHEDULES:
        x = np.arange(64, dtype=np.float32)
        with checking(schedule):
            planted().get_function("missing_barrier")((1,), (64,), (x,))
        found.append(x)
    assert all(np.isnan(x).any() for x in found)  # memory that nobody had written
    assert not np.array_equal(found[0], found[1], equal_nan=True)


@pytest.mark.parametrize(
    ("name", "args", "shared", "message"),
    [
        ("divergent_barrier", (), 0, r"divergent __syncthreads: threads wait at .*:\d+ and at .*:\d+"),
        ("return_before_barrier", (np.int32(40),), 0, "reached by 40 of 64 threads, the others have ended"),
        ("write_behind_array", (np.int32(64),), 0, r"it writes outside of array 0, \(64,\) float32"),
        ("write_behind_shared", (np.int32(8),), 32, "it writes past its 32 bytes of dynamic shared memory"),
        ("lane_not_in_mask", (), 0, "is not in its own mask 0x0000ffff"),
        ("half_a_warp_waits", (), 0, "deadlock: 16 threads wait for lanes of their warps"),
        ("write_behind_array", (np.int64(64),), 0, "argument 1 is int64, the parameter i4"),
        ("write_behind_array", (64,), 0, "argument 1 is int64, the parameter i4"),
        ("write_behind_array", (np.float32(64),), 0, "argument 1 is float32, the parameter i4"),
        ("write_behind_array", (), 0, "has 2 parameters, got 1 arguments"),
    ],
)
def test_planted_bugs_are_found(name, args, shared, message):
    with checking(), pytest.raises(EmulatorError, match=message):
        planted().get_function(name)((1,), (64,), (np.ones(64, np.float32), *args), shared)


def test_grids_that_cannot_be_launched():
    for grid, block in (((0,), (32,)), ((1,), (2048,)), ((1, 70000), (32,))):
        with pytest.raises(EmulatorError, match="cannot be launched"):
            planted().get_function("lane_not_in_mask")(grid, block, (np.ones(64, np.float32),))


SANITIZED = """
import numpy as np
from tests.cuda_on_cpu.test_emulator import planted
x, y = np.ones(8, np.float32), np.zeros(96, np.float32)
planted().get_function("total<float>")((1,), (96,), (np.ones(1000, np.float32), y, np.int32(1000)))
print(y[0], flush=True)
planted().get_function("read_behind_array")((1,), (1,), (x, y, np.int32(BEHIND)))
"""


@pytest.mark.parametrize("behind", [7, 8])
def test_address_sanitizer_sees_reads_outside_of_arrays(behind):
    library = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(library):
        pytest.skip("g++ has no AddressSanitizer")
    environment = {**os.environ, "LD_PRELOAD": library, "DTRAIN_EMULATOR_ASAN": "1", "PYTHONMALLOC": "malloc"}
    environment["ASAN_OPTIONS"] = "detect_leaks=0"
    program = SANITIZED.replace("BEHIND", str(behind))
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout == "1000.0\n", done.stderr
    assert ("heap-buffer-overflow" in done.stderr) == (behind == 8), done.stderr
