"""A run that is stopped anywhere and goes on, on another number of ranks, is the undisturbed run."""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import nn, optim
from dtrain.backend.random import key
from dtrain.checkpoint import STOPPED, Checkpointer, Stopped, checkpointer
from dtrain.comm import Communicator, SingleCommunicator, run_ranks
from tests.checkpoint.training import STEPS, train


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def undisturbed(**options: Any) -> tuple[str, list[float]]:
    return run_ranks(1, lambda comm: train(comm, None, **options))[0][:2]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_stopped_after_any_step_and_resumed_on_another_number_of_ranks(optimizer: str, tmp_path: Path) -> None:
    """After step 5 an epoch ends; from step 5 on one more layer is used."""
    want, losses = undisturbed(optimizer=optimizer)
    for stopped in range(1, STEPS + 1):
        before, after = 1 + stopped % 4, 1 + (stopped * 3 + 1) % 4
        folder = tmp_path / str(stopped)
        run_ranks(before, lambda comm, f=folder, s=stopped: train(comm, f, steps=s, optimizer=optimizer))
        results = run_ranks(after, lambda comm, f=folder: train(comm, f, optimizer=optimizer))
        assert results == [(want, losses[stopped:], stopped)] * after, f"after step {stopped}"
        assert len(names(folder)) == 3


def test_resumed_again_and_again_with_another_number_of_ranks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    want, losses = undisturbed()
    seen: list[float] = []
    for steps in range(STEPS + 1):
        ranks = 1 + steps * 2 % 5
        result, new, began = run_ranks(ranks, lambda comm, s=steps: train(comm, tmp_path, steps=s))[0]
        assert began == max(0, steps - 1)
        seen += new
    assert (result, seen) == (want, losses)
    said = capsys.readouterr().err
    assert said.count(f"no checkpoint in {tmp_path} yet: starts from the beginning") == 2  # before the first step
    assert f"resumed from {tmp_path}/step-00000007, after step 7\n" in said


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    """Whatever the number of ranks, and however far training has gone while the checkpoint was being written."""
    written, go_on = threading.Event(), threading.Event()
    save = checkpointer.write

    def slow(*args: Any) -> None:
        go_on.wait()
        save(*args)
        written.set()

    def after_step(checkpoint: Checkpointer) -> None:
        if checkpoint.steps == 7 and checkpoint.comm.rank == 0:
            go_on.set()

    run_ranks(1, lambda comm: train(comm, tmp_path / "one", every=5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpointer, "write", slow)
        run_ranks(3, lambda comm: train(comm, tmp_path / "three", every=5, after_step=after_step))
    assert written.is_set()
    files = [sorted(f.read_bytes() for f in (tmp_path / run).rglob("*") if f.is_file()) for run in ("one", "three")]
    assert len(files[0]) == 2 and files[0] == files[1]


def test_one_write_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way: list[int] = []
    save = checkpointer.write

    def write(directory: Path, step: int, *args: Any) -> None:
        under_way.append(step)
        assert len(under_way) == 1
        save(directory, step, *args)
        under_way.remove(step)

    monkeypatch.setattr(checkpointer, "write", write)
    train(SingleCommunicator(), tmp_path)
    assert names(tmp_path) == [f"step-{step:08d}" for step in (6, 7, 8)]


@pytest.mark.parametrize("size", [1, 3])
def test_damaged_checkpoints_are_named_and_skipped(
    size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    want, losses = undisturbed()
    run_ranks(2, lambda comm: train(comm, tmp_path, steps=7))
    (tmp_path / "step-00000006/checkpoint.json").write_text("{")
    tensors = tmp_path / "step-00000007/state.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:100])
    capsys.readouterr()
    results = run_ranks(size, lambda comm: train(comm, tmp_path, every=3))
    assert results == [(want, losses[5:], 5)] * size
    said = capsys.readouterr().err.splitlines()
    reason = r"\(state.safetensors has 100 bytes, of \d+ that were written\)"
    assert re.fullmatch(rf"dtrain: {tmp_path}/step-00000007 is damaged {reason} and skipped", said[0])
    assert "step-00000006 is damaged (checkpoint.json has changed" in said[1]
    assert said[2] == f"dtrain: resumed from {tmp_path}/step-00000005, after step 5"
    # The damaged one of the step that was written again is replaced, the other is out of the way.
    assert names(tmp_path) == ["step-00000005", "step-00000006", "step-00000006.damaged", "step-00000007.damaged"]


@pytest.mark.parametrize("size", [1, 2])
def test_nothing_but_damage_is_an_error(size: int, tmp_path: Path) -> None:
    train(SingleCommunicator(), tmp_path, steps=2)
    for file in tmp_path.rglob("*.json"):
        file.unlink()
    with pytest.raises(
        RuntimeError, match=r"no checkpoint in .* can be used: .*02 is damaged \(checkpoint.json is missing\); .*01 is"
    ):
        run_ranks(size, lambda comm: train(comm, tmp_path))


def fails_on_every_rank(size: int, function: Any, error: type[Exception], match: str) -> None:
    def run(comm: Communicator) -> str:
        with pytest.raises(error, match=match) as raised:
            function(comm)
        return str(raised.value)

    assert len(set(run_ranks(size, run))) == 1


@pytest.mark.parametrize("size", [1, 3])
def test_a_run_that_would_go_on_differently_is_refused(size: int, tmp_path: Path) -> None:
    train(SingleCommunicator(), tmp_path, steps=2)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"microbatches": 8}, "was made with microbatches=6, this job has 8, .* give the job microbatches=6"),
        (
            {"width": 5},
            r"2 does not fit model: conv.weight: float32 \(4, 1, 3, 3\) there, .* \(5, 1, 3, 3\) here; .* and 3 more",
        ),
        (
            {"optimizer": "rmsprop", "resume": False},
            "holds the checkpoints of an earlier run, up to step-00000002; resume",
        ),
    ]
    for options, message in cases:
        error = RuntimeError if "resume" in options else ValueError
        fails_on_every_rank(size, lambda comm, o=options: train(comm, tmp_path, **o), error, message)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


def test_a_model_that_does_not_fit_is_left_as_it_is(tmp_path: Path) -> None:
    def run(model: nn.Module, seed: int = 0, **more: Any) -> nn.Module:
        dtrain.manual_seed(seed)
        optimizer = optim.Adam(model.parameters())
        checkpoint = Checkpointer(tmp_path, SingleCommunicator(), every=1, model=model, optimizer=optimizer, **more)
        checkpoint.resume()
        optimizer.step()
        checkpoint.step()
        checkpoint.close()
        return model

    run(nn.Linear(3, 2))
    for model, message in (
        (nn.Linear(3, 2).double(), r"weight: float32 \(2, 3\) there, float64 \(2, 3\) here"),
        (nn.Linear(3, 2, bias=False), r"model: bias: float32 \(2,\) there, nothing here$"),
        (nn.Sequential(nn.Linear(3, 2)), r"0\.weight: nothing there, float32 \(2, 3\) here"),
    ):
        before = [p.array.copy() for p in model.parameters()]
        with pytest.raises(ValueError, match=message):
            run(model)
        assert all(np.array_equal(p.array, b) for p, b in zip(model.parameters(), before, strict=True))
    with pytest.raises(
        ValueError, match="made with seed=0, this job has 1, and would go on differently; give the job seed=0"
    ):
        run(nn.Linear(3, 2), seed=1)
    with pytest.raises(ValueError, match="holds model, optimizer; the Checkpointer was given model, optimizer, more"):
        run(nn.Linear(3, 2), more=nn.Linear(1, 1))
    run(nn.Linear(3, 2))


@pytest.mark.parametrize("size", [1, 3])
def test_arguments_that_cannot_work(size: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    net = nn.Linear(1, 1)
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (tmp_path / "file" / "x", {"net": net}, OSError, "no checkpoint can be written to .*/x: Not a directory"),
        (tmp_path, {"every": 0}, ValueError, "every must be at least 1, got 0"),
        (tmp_path, {"keep": 0}, ValueError, "keep must be at least 1, got 0"),
        (tmp_path, {"net": 3}, TypeError, "net, a int, has no state_dict"),
    ]
    for directory, options, error, message in cases:
        fails_on_every_rank(size, lambda comm, d=directory, o=options: Checkpointer(d, comm, **o), error, message)

    def differing(comm: Communicator) -> None:
        Checkpointer(tmp_path, comm, every=2 + comm.rank // 2, net=net)

    if size == 3:
        fails_on_every_rank(
            size, differing, ValueError, "ranks disagree about a checkpoint: rank 0: .* 2, .* rank 2: .* 3"
        )


def test_a_failed_write_is_raised_at_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpointer, "write", write)
    done: list[int] = []

    def after_step(checkpoint: Checkpointer) -> None:
        done.append(checkpoint.steps)
        if checkpoint._writing is not None:
            checkpoint._writing._finished.wait()

    with pytest.raises(OSError, match=f"the checkpoint of step 2 cannot be written to {tmp_path}: .*No space left"):
        train(SingleCommunicator(), tmp_path, every=2, after_step=after_step)
    assert done == [1, 2]
    with pytest.raises(OSError, match="the checkpoint of step 8 cannot be written"):
        train(SingleCommunicator(), tmp_path, every=8)  # by close


@pytest.mark.parametrize("stopped", [1, 5, STEPS])
def test_a_request_to_stop_one_rank_stops_all_after_the_same_step(
    stopped: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    want, losses = undisturbed()
    left: list[int] = []

    def run(comm: Communicator) -> Any:
        def after_step(checkpoint: Checkpointer) -> None:
            if checkpoint.steps == stopped - 1 and comm.rank == 1:
                comm.stop_requested = True  # what a signal does

        comm.stop_requested = comm.rank == 1 and stopped == 1
        with pytest.raises(Stopped) as raised:
            train(comm, tmp_path, every=None, after_step=after_step)
        left.append(raised.value.code)

    run_ranks(3, run)
    assert left == [STOPPED] * 3 and names(tmp_path) == [f"step-{stopped:08d}"]
    assert f"asked to stop: step {stopped} is done and saved in {tmp_path}; leaves with 75" in capsys.readouterr().err
    assert run_ranks(2, lambda comm: train(comm, tmp_path)) == [(want, losses[stopped:], stopped)] * 2


def test_a_request_without_a_model_that_carries_it(tmp_path: Path) -> None:
    def run(comm: Communicator) -> int:
        checkpoint = Checkpointer(tmp_path, comm, net=nn.Linear(1, 1))
        checkpoint.step()
        comm.stop_requested = comm.rank == 2
        with pytest.raises(Stopped):
            checkpoint.step()
        return checkpoint.steps

    assert run_ranks(3, run) == [2] * 3


def test_hosts_that_do_not_share_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of one process see the same files: what host b sees is listed for it."""
    train(SingleCommunicator(), tmp_path / "b", steps=3)
    (tmp_path / "a").mkdir()
    ranks = threading.local()
    listed = checkpointer.checkpoints
    monkeypatch.setattr(checkpointer, "checkpoints", lambda directory: listed(tmp_path / ranks.host))

    def resume(comm: Communicator) -> bool:
        ranks.host = comm.host
        return train(comm, tmp_path / "a")[2] > 0

    hosts = ["a", "a", "b", "b"]
    with pytest.raises(
        FileNotFoundError,
        match="host b has step-00000003 in .*, and rank 0 on a does not see it: .* or start rank 0 on b",
    ):
        run_ranks(4, resume, hosts=hosts)
    # The other way round all is well: rank 0 sees what there is, and tells the others.
    assert all(run_ranks(4, resume, hosts=hosts[::-1]))


def test_parts_are_put_together_on_all_ranks_before_they_are_saved(tmp_path: Path) -> None:
    class Sharded:
        def __init__(self, comm: Communicator) -> None:
            self.comm, self.part, self.whole = comm, np.full(2, comm.rank, np.float32), None

        def consolidate_state_dict(self) -> None:
            self.whole = self.comm.all_gather(self.part)

        def state_dict(self) -> dict[str, Any]:
            assert self.whole is not None, "first put the parts together"
            return {"whole": self.whole}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.part = state["whole"][self.comm.rank] + 10

    def run(comm: Communicator) -> list[float]:
        sharded = Sharded(comm)
        checkpoint = Checkpointer(tmp_path, comm, every=1, sharded=sharded)
        if not checkpoint.resume():
            checkpoint.step()
        checkpoint.close()
        return sharded.part.tolist()

    assert run_ranks(2, run) == [[0, 0], [1, 1]]
    assert run_ranks(2, run) == [[10, 10], [11, 11]]


def test_threads_and_random_streams_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(threads: int) -> tuple[list[int], list[float]]:
        dtrain.manual_seed(5)
        comm, told = SingleCommunicator(), []
        comm.threads, comm.on_threads = threads, told.append
        checkpoint = Checkpointer(tmp_path, comm, every=1, optimizer=optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1))
        if not checkpoint.resume():
            dtrain.randn(3)
            key.move_to(4, 0)
            checkpoint.step()
        checkpoint.close()
        return told, [*dtrain.randn(2).tolist(), *dtrain.rand(2).tolist(), nn.Linear(1, 1).weight.item()]

    told, draws = run(2)
    assert told == []
    assert run(2) == ([], draws)
    capsys.readouterr()
    assert run(1) == ([2], draws)
    assert "goes on with 2 threads per rank, as the checkpoint was made, not 1" in capsys.readouterr().err


def test_another_format_and_other_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = checkpointer.versions()
    monkeypatch.setattr(checkpointer, "versions", lambda: {**versions, "numpy": "1.0"})
    train(SingleCommunicator(), tmp_path, steps=1)
    monkeypatch.undo()
    train(SingleCommunicator(), tmp_path, steps=2)
    assert "step-00000001 was made with numpy 1.0: the last bits may differ from now on" in capsys.readouterr().err
    monkeypatch.setattr(checkpointer, "FORMAT", 2)
    with pytest.raises(ValueError, match="step-00000002 has format 1, this dtrain reads format 2"):
        train(SingleCommunicator(), tmp_path)


def test_without_a_directory_steps_are_counted(tmp_path: Path) -> None:
    comm = SingleCommunicator()
    comm.stop_requested = True
    checkpoint = Checkpointer(None, comm, every=1, net=nn.Linear(1, 1))
    assert not checkpoint.resume()
    checkpoint.step()
    checkpoint.close()
    assert checkpoint.steps == 1
    shutil.rmtree(tmp_path)
