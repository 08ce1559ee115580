"""The benchmarks' machinery on the smallest workload; what it measures is not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.launch.jobs import ROOT, environment, needs_mpi


@needs_mpi
def test_scaling_measures_each_way_in_each_library(tmp_path: Path, torch: Any) -> None:
    result = tmp_path / "scaling.json"
    command = [sys.executable, str(ROOT / "benchmarks/scaling.py"), "tiny", "--rounds", "2", "--json", str(result)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    ours, theirs, ratios = json.loads(result.read_text())["rows"]
    assert [ours["library"], theirs["library"]] == ["dtrain", "torch"]
    for row in (ours, theirs):
        low, middle, high = row["slowdown_quartiles"]
        assert 0 < low <= middle <= high and row["alone_ms"] > 0
    assert ratios["ranks_ratio"] == pytest.approx(ours["ranks_ms"] / theirs["ranks_ms"])
    assert "tiny" in done.stdout


def test_step_time_compares_with_the_fastest_mode(tmp_path: Path, torch: Any) -> None:
    result = tmp_path / "step_time.json"
    command = [sys.executable, str(ROOT / "benchmarks/step_time.py"), "tiny", "cnn", "--rounds", "1"]
    modes = ["--modes", "torch", "torch-channels-last"]
    done = subprocess.run(
        [*command, *modes, "--json", str(result)], env=environment(), capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tiny, cnn, cost = json.loads(result.read_text())["rows"]
    assert list(tiny["torch_ms"]) == ["torch"] and list(cnn["torch_ms"]) == ["torch", "torch-channels-last"]
    ours = [min(row["dtrain_ms"], row["captured_ms"]) for row in (tiny, cnn)]
    assert cnn["ratio"] == pytest.approx(ours[1] / min(cnn["torch_ms"].values()))
    batch = 2 * 32 * (64 * 32 + 32 * 10)  # multiplications and additions of the products of a forward pass
    assert tiny["gflops"] * ours[0] * 1e6 == pytest.approx(3 * batch - 2 * 32 * 64 * 32)  # none for the input
    assert all(cost["op_cost_us"].values()) and "Python's cost of an op" in done.stdout


def test_a_job_that_ends_by_itself_says_why() -> None:
    from jobs import Job

    with Job("dtrain", "no such workload") as job, pytest.raises(RuntimeError, match="KeyError: 'no such workload'"):
        job.start(1)
