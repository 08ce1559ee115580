"""The sbatch files are valid, consistent, and changed by three lines."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "slurm"
FILES = sorted(FOLDER.glob("*.sbatch"))
KNOWN = {
    "cpus-per-task",
    "gpus-per-node",
    "job-name",
    "nodes",
    "ntasks",
    "ntasks-per-node",
    "output",
    "time",
}


def test_all_are_here() -> None:
    names = [file.name for file in FILES]
    assert names == ["gpus.sbatch", "one_node.sbatch", "several_nodes.sbatch"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_sbatch_file(file: Path) -> None:
    text = file.read_text()
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash"
    subprocess.run(["bash", "-n", str(file)], check=True)
    assert len([line for line in lines if "# <-- change: " in line]) == 3
    assert len(lines) < 30 and max(map(len, lines)) <= 100

    found = re.findall(r"^#SBATCH --([a-z-]+)=(\S+)(?: +# .*)?$", text, re.MULTILINE)
    assert len(found) == text.count("#SBATCH"), "an option that is not --name=value"
    options = dict(found)
    assert len(options) == len(found) and set(options) <= KNOWN
    assert {"nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "time"} <= set(options)
    ranks_per_node = int(options["ntasks-per-node"])
    assert int(options["nodes"]) * ranks_per_node == int(options["ntasks"])
    assert int(options.get("gpus-per-node", ranks_per_node)) == ranks_per_node
    assert re.fullmatch(r"\d\d:\d\d:\d\d", options["time"])
    # sbatch reads options only above the first command.
    commands = [i for i, line in enumerate(lines) if line and not line.startswith("#")]
    assert max(i for i, line in enumerate(lines) if line.startswith("#SBATCH")) < commands[0]

    (srun,) = re.findall(r"^srun (?:.*\\\n)*.*$", text, re.MULTILINE)
    words = shlex.split(srun)
    assert {"--mpi=pmi2", "--kill-on-bad-exit=1"} <= set(words)
    program = words[words.index("python") :]
    assert program[1] == "examples/train.py"
    if "--microbatches" in program:
        assert int(program[program.index("--microbatches") + 1]) >= int(options["ntasks"])
    else:  # the example's default
        assert int(options["ntasks"]) <= 4
    assert ("cuda" in program) == ("gpus-per-node" in options)
