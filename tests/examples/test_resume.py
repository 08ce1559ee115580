"""examples/train.py, stopped in the middle of an epoch and resumed on another number of ranks."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from tests.examples.programs import EXAMPLES, result_in, result_of, run_example, write_small_data
from tests.launch.jobs import needs_mpi, run, start, survives

# Waits after a step, when what was due has been written: for a signal (for ever, if it is SIGKILL).
WAITING = """
    import runpy, sys, time
    from dtrain.checkpoint import Checkpointer

    step = Checkpointer.step

    def step_and_wait(checkpoint):
        step(checkpoint)
        if checkpoint.steps == {at}:
            checkpoint._finish_writing()
            checkpoint.comm.rank or print("waits", flush=True)
            while not checkpoint.comm.stop_requested:
                time.sleep(0.01)

    Checkpointer.step = step_and_wait
    sys.argv = {arguments}
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def disturbed(number: int, at: int, options: tuple[str, ...], folder: Path, ranks: int = 0) -> tuple[int, str]:
    """Run train.py, under mpirun if there are ranks; send it the signal `number` after step `at`. Exit code, output."""
    script = WAITING.format(at=at, arguments=[str(EXAMPLES / "train.py"), *options])
    variables = {"DTRAIN_DATA": "", "XDG_CACHE_HOME": "/nonexistent"}
    with start("mpirun" if ranks else "python", script, folder, ranks, variables) as process:
        assert process.stdout is not None
        output = ""
        while "waits\n" not in output:
            line = process.stdout.readline()
            assert line, f"the job ended before step {at}:\n{output}"
            output += line
        process.send_signal(number)
        output += process.communicate(timeout=60)[0]
    return process.returncode, output


def end_of(done: subprocess.CompletedProcess[str]) -> list[object]:
    result = result_of(done)
    return [result[name] for name in ("sha256", "loss", "accuracy")]


@needs_mpi
def test_killed_then_stopped_then_resumed_to_the_same_end(tmp_path: Path) -> None:
    """10 steps per epoch. Killed in the second epoch, asked to stop in the third."""
    write_small_data(tmp_path)
    options = ("--steps", "24", "--microbatches", "5", "--batch-size", "64", "--threads", "1", "--data", str(tmp_path))
    kept = (*options, "--checkpoint-dir", str(tmp_path / "run"), "--every", "4", "--resume")
    want = end_of(run_example("train.py", *options))

    code, output = disturbed(signal.SIGKILL, 17, kept, tmp_path, ranks=3)
    assert code == -signal.SIGKILL and "starts from the beginning" in output
    code, output = disturbed(signal.SIGUSR1, 21, kept, tmp_path, ranks=2)
    assert code == 75
    assert f"resumed from {tmp_path}/run/step-00000016, after step 16" in output
    assert output.count("asked to stop: step 22 is done and saved in") == 1
    assert "Traceback" not in output and "[rank" not in output

    resumed = run_example("train.py", *kept, ranks=4)
    assert "step-00000022, after step 22" in resumed.stderr
    assert end_of(resumed) == want
    ended = run_example("train.py", *kept)  # from the checkpoint of the last step
    assert "after step 24" in ended.stderr and end_of(ended) == want


KILLED = """
    import os, pathlib, runpy, signal, sys
    from dtrain.checkpoint import Checkpointer

    step, mark = Checkpointer.step, pathlib.Path(__file__).with_suffix(".mark")

    def step_and_die(checkpoint):
        step(checkpoint)
        if checkpoint.steps == 15 and checkpoint.comm.rank == 0 and not mark.exists():
            checkpoint._finish_writing()
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpointer.step = step_and_die
    sys.argv = {arguments}
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@needs_mpi
def test_a_rank_is_lost(tmp_path: Path) -> None:
    """The others go on where the MPI can do that; elsewhere the job goes on from its newest checkpoint, by itself."""
    write_small_data(tmp_path)
    options = ("--steps", "24", "--microbatches", "5", "--batch-size", "64", "--threads", "1", "--data", str(tmp_path))
    want = end_of(run_example("train.py", *options))
    kept = [*options, "--checkpoint-dir", str(tmp_path / "run"), "--every", "4", "--resume"]
    script = KILLED.format(arguments=[str(EXAMPLES / "train.py"), *kept])
    ended = run("launch --survive --restarts 1", script, tmp_path)
    assert ended.code == 0
    assert [result_in(ended.output)[name] for name in ("sha256", "loss", "accuracy")] == want
    if survives():
        assert "2 ranks go on" in ended.output and "restart 1 of 1" not in ended.output
    else:
        assert "restart 1 of 1" in ended.output
        assert f"resumed from {tmp_path}/run/step-00000012, after step 12" in ended.output


def test_an_epoch_that_has_no_step_left_is_still_evaluated(tmp_path: Path) -> None:
    write_small_data(tmp_path)
    options = ("--epochs", "2", "--batch-size", "100", "--threads", "1", "--data", str(tmp_path))
    kept = (*options, "--checkpoint-dir", str(tmp_path / "run"), "--every", "6", "--resume")
    want = run_example("train.py", *options)
    code, output = disturbed(signal.SIGKILL, 6, kept, tmp_path)
    assert code == -signal.SIGKILL and "epoch 1: test" not in output
    resumed = run_example("train.py", *kept)
    assert end_of(resumed) == end_of(want)
    assert resumed.stdout.splitlines()[:-1] == want.stdout.splitlines()[:-1]
