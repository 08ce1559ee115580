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


def test_a_job_that_ends_by_itself_says_why() -> None:
    from jobs import Job

    with Job("dtrain", "no such workload") as job, pytest.raises(RuntimeError, match="KeyError: 'no such workload'"):
        job.start(1)
