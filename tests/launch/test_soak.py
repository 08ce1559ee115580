"""The short form of benchmarks/soak.py: ranks are killed at random moments, and no weight changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.launch.jobs import ROOT, environment, needs_mpi


@needs_mpi
def test_killed_ranks_change_nothing(tmp_path: Path) -> None:
    results = tmp_path / "soak.json"
    command = [sys.executable, str(ROOT / "benchmarks/soak.py"), "--python", sys.executable, "--kills", "4"]
    done = subprocess.run(
        [*command, "--json", str(results)], env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(results.read_text())["rows"]["summary"]["kills"] >= 4
