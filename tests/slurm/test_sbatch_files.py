"""The sbatch files are valid, consistent, and changed by three lines."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from dtrain.checkpoint import STOPPED

FOLDER = Path(__file__).parents[2] / "slurm"
FILES = sorted(FOLDER.glob("*.sbatch"))
KNOWN = {
    "cpus-per-task",
    "gpus-per-node",
    "job-name",
    "nodes",
    "ntasks",
    "ntasks-per-node",
    "open-mode",
    "output",
    "requeue",
    "signal",
    "time",
}


def test_all_are_here() -> None:
    names = [file.name for file in FILES]
    assert names == ["gpus.sbatch", "one_node.sbatch", "openmpi.sbatch", "several_nodes.sbatch"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_sbatch_file(file: Path) -> None:
    text = file.read_text()
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash"
    subprocess.run(["bash", "-n", str(file)], check=True)
    assert len([line for line in lines if "# <-- change: " in line]) == 3
    assert len(lines) <= 35 and max(map(len, lines)) <= 100

    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?(?: +# .*)?$", text, re.MULTILINE)
    assert len(found) == text.count("#SBATCH"), "an option that is neither --name nor --name=value"
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

    (start,) = re.findall(r"^(?:srun|python -m launch) (?:.*\\\n)*.*$", text, re.MULTILINE)
    words = shlex.split(start)
    program = words[words.index("examples/train.py") :]
    if file.name == "openmpi.sbatch":
        assert words[:5] == ["python", "-m", "launch", "-n", "$SLURM_NTASKS"]
        assert options["signal"] == "B:USR1@120"
    else:
        assert {"--mpi=pmi2", "--kill-on-bad-exit=1"} <= set(words)
        assert options["signal"] == "USR1@120"
    if "--microbatches" in program:
        assert int(program[program.index("--microbatches") + 1]) >= int(options["ntasks"])
    else:  # the example's default
        assert int(options["ntasks"]) <= 4
    assert ("cuda" in program) == ("gpus-per-node" in options)
    assert {"--checkpoint-dir", "--resume"} <= set(program)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
@pytest.mark.parametrize(("code", "requeued"), [(0, ""), (STOPPED, "requeue 42\n"), (1, ""), (137, "")])
def test_a_stopped_job_is_queued_again(file: Path, code: int, requeued: str, tmp_path: Path) -> None:
    """Run by bash, with a launcher that ends with this code and an scontrol that says what it is asked for."""
    for name, text in (("srun", f"exit {code}"), ("python", f"exit {code}"), ("scontrol", 'echo "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    script = re.sub(r"^source .*$", "", file.read_text(), flags=re.MULTILINE)
    variables = {
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "42",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_NTASKS": "2",
    }
    variables["PATH"] = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(["bash", "-c", script], env=variables, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, requeued, "")
