"""The jobs of `python -m dtrain.gpucheck`, on the stand-in for CuPy."""

from __future__ import annotations

import json
import subprocess
import sys

from dtrain.gpucheck import ranks
from tests.launch.jobs import environment, mpirun, needs_mpi
from tests.launch.test_gpus import ON_STAND_IN


@needs_mpi
def test_two_ranks_have_the_bits_of_one():
    found = []
    for n in (1, 2):
        command = [mpirun() or "mpirun", "-n", str(n), sys.executable, str(ON_STAND_IN), ranks.__file__, "2"]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert found[0]["sha256"] == found[1]["sha256"]
    assert [f["way"] for f in found] == ["one rank", "the host's memory"]
