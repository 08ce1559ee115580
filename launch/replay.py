"""python -m launch replay CAPSULE [--microbatch J] [--pdb]

Runs the script of a failed job in one process, from the beginning of the step that failed, and stops after it; where
ranks had different parameters after a step, or each had a part of the optimizer's state (ZeroRedundancyOptimizer,
DiLoCo), from the newest checkpoint before to that place. The capsule is the
folder that the failing rank has named. Exit code 0: the same error has come, or where there was none to come (ranks
differed), the same gradients or parameters; 1: another outcome, and 2: there is no such capsule.
"""

from __future__ import annotations

import argparse
import os
import pdb
import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import dtrain.checkpoint
from dtrain.checkpoint.capsule import error_text, gradient_hash, state_hash
from dtrain.checkpoint.files import Damaged, read
from launch.job import Job

__all__ = ["replay"]


class Over(BaseException):
    """The step is done; holds the hash of its gradients, or of the parameters after it."""


def replay(arguments: Sequence[str]) -> NoReturn:
    """Replay the step of a capsule, and exit with whether the same came out."""
    parser = argparse.ArgumentParser(prog="python -m launch replay", description="Run a step that failed once more.")
    parser.add_argument("capsule", type=Path, help="the folder that the failing rank has named")
    parser.add_argument("--microbatch", type=int, metavar="J", help="run this microbatch of the step alone")
    parser.add_argument("--pdb", action="store_true", help="debug the error where it comes")
    options = parser.parse_args(arguments)
    try:
        content, blob = read(options.capsule)
        failure = content["failure"]
    except (Damaged, KeyError) as error:
        print(f"python -m launch replay: {options.capsule} is no whole capsule: {error}", file=sys.stderr)
        sys.exit(2)
    first, until = content["step"], failure["until"]
    if until is not None and options.microbatch is not None:
        print(
            "python -m launch replay: the capsule is of several steps, which run whole: no --microbatch",
            file=sys.stderr,
        )
        sys.exit(2)
    where = (
        f"steps {first} to {until - 1}" if until is not None
        else f"step {first}, all microbatches" if options.microbatch is None
        else f"step {first}, microbatch {options.microbatch}"
    )  # fmt: skip
    print(f"dtrain: replays {where}; on rank {failure['rank']} came {failure['error']}", file=sys.stderr, flush=True)
    capsule = options.capsule.absolute()
    _prepare(capsule, content, blob, options.microbatch)
    os.chdir(failure["folder"])
    try:
        _run(failure)
        outcome, same = "the script ended before the step was done", False
    except Over as over:
        same = options.microbatch is None and over.args == (failure["hash"],)
        what = "gradients" if until is None else "parameters"
        outcome = f"no error, and {'the same' if same else 'other'} {what}"
        if failure["hash"] is None:
            outcome = "no error"
        if options.microbatch is not None:
            outcome = f"microbatch {options.microbatch} has no error"
    except Exception as error:
        traceback.print_exc()
        same = error_text(error) == failure["error"]
        outcome = "the same error" if same else f"another error: {error_text(error)}"
        if options.pdb:
            pdb.post_mortem(error.__traceback__)
    print(f"dtrain: replayed {where}: {outcome}", file=sys.stderr, flush=True)
    sys.exit(0 if same else 1)


def _prepare(capsule: Path, content: dict[str, Any], blob: bytes, microbatch: int | None) -> None:
    """Let the script's Job and Checkpointer be those of the capsule."""
    make_job, make_checkpointer = Job.__init__, dtrain.checkpoint.Checkpointer.__init__

    def job(self: Job, seed: int = 0, **options: Any) -> None:
        kept = {"microbatches": content["microbatches"], "threads": content["threads"]}
        make_job(self, seed, **{**options, **kept})

    def checkpointer(self: Any, directory: Any, comm: Any, **options: Any) -> None:
        make_checkpointer(self, None, comm, **options)  # writes nothing
        sys.excepthook = self._hook
        self.load(capsule, content, blob)
        model = self.objects[content["failure"]["model"]]
        loaders = [thing for thing in self.objects.values() if hasattr(thing, "own_microbatches")]
        for loader in loaders if microbatch is not None else ():
            loader.own_microbatches = [microbatch]

        until, step = content["failure"]["until"], self.step

        def over() -> None:
            raise Over(gradient_hash(model))

        def step_or_end() -> None:
            step()
            if self.steps == until:
                raise Over(state_hash(model))

        if until is None:
            model.replay(microbatch, over)
        self.step = step_or_end

    Job.__init__ = job  # type: ignore[method-assign]
    dtrain.checkpoint.Checkpointer.__init__ = checkpointer  # type: ignore[method-assign]


def _run(failure: dict[str, Any]) -> None:
    sys.argv = list(failure["command"])
    if failure["module"]:
        sys.path.insert(0, os.getcwd())
        runpy.run_module(failure["module"], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(failure["command"][0]))
        runpy.run_path(failure["command"][0], run_name="__main__")
