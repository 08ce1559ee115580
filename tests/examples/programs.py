"""Runs the examples, in one process or under mpirun, on small data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from dtrain.data import FashionMNIST
from tests.launch.jobs import ROOT, environment, mpirun

__all__ = ["EXAMPLES", "result_in", "result_of", "run_example", "write_idx", "write_small_data"]

EXAMPLES = ROOT / "examples"


def run_example(name: str, *options: str, ranks: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run an example: as one process (ranks 0), or under mpirun. It uses the embedded data."""
    command = [mpirun() or "mpirun", "-n", str(ranks)] if ranks else []
    command += [sys.executable, str(EXAMPLES / name), *options]
    # No folder of this machine's; an empty cache.
    places = {"DTRAIN_DATA": "", "XDG_CACHE_HOME": "/nonexistent", **variables}
    return subprocess.run(command, env=environment(**places), capture_output=True, text=True, timeout=180)


def result_of(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert done.returncode == 0, done.stdout + done.stderr
    return result_in(done.stdout)


def result_in(output: str) -> dict[str, object]:
    """What train.py says in its last line."""
    (line,) = (line for line in output.splitlines() if line.startswith('{"accuracy"'))
    result: dict[str, object] = json.loads(line)
    return result


def write_idx(folder: Path, name: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Images and labels as the IDX files of a data set."""
    for kind, magic, array in (("images-idx3", 3, images), ("labels-idx1", 1, labels)):
        header = bytes([0, 0, 8, magic]) + np.array(array.shape, ">i4").tobytes()
        (folder / f"{name}-{kind}-ubyte").write_bytes(header + np.asarray(array, np.uint8).tobytes())


def write_small_data(folder: Path) -> None:
    """600 images of Fashion-MNIST to train on and 100 to test with, as IDX files."""
    for train, n, name in ((True, 600, "train"), (False, 100, "t10k")):
        subset = FashionMNIST(train=train)
        write_idx(folder, name, subset.data[:: len(subset) // n], subset.targets[:: len(subset) // n])
