"""The progress bar counts the samples of all ranks, and leaves the loop alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from launch import Progress, progress


class Loader:
    """As rank 0 of 2 sees an epoch of 10 samples in global batches of 4."""

    dataset = range(10)
    batch_size = 4

    def __init__(self, steps: int = 3) -> None:
        self.steps = steps
        self.samples_consumed = 0

    def __iter__(self) -> Iterator[int]:
        for step in range(self.samples_consumed // 4, self.steps):
            self.samples_consumed = min(4 * (step + 1), 10)
            yield step

    def __len__(self) -> int:
        return self.steps


@pytest.mark.parametrize("seconds", [0.0, 10.0])
def test_lines_in_a_log(seconds: float, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", seconds)
    monkeypatch.setattr(progress, "_stderr_is_a_terminal", lambda: False)
    bar = Progress(Loader(), "epoch 0")
    assert len(bar) == 3
    seen = []
    for step in bar:
        seen.append(step)
        bar.set_postfix(loss=f"{1 / (step + 1):.2f}")
    assert seen == [0, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (1 if seconds else 4)  # every step and the end
    assert "epoch 0: 100%" in lines[-1] and "10/10" in lines[-1]
    assert "samples/s" in lines[-1] and "loss=0.33" in lines[-1]
    assert all("\r" not in line for line in lines)


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_stderr_is_a_terminal", lambda: True)
    assert list(Progress(Loader())) == [0, 1, 2]
    assert "\r100%" in capsys.readouterr().err


def test_resumed_dropped_and_stopped(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_stderr_is_a_terminal", lambda: False)
    resumed = Loader()
    resumed.samples_consumed = 4
    assert list(Progress(resumed)) == [1, 2]
    assert "10/10" in capsys.readouterr().err
    assert list(Progress(Loader(steps=2))) == [0, 1]  # drop_last
    assert "8/8" in capsys.readouterr().err
    for step in Progress(Loader()):
        if step == 1:
            break
    assert "4/10" in capsys.readouterr().err


def test_other_iterables_and_other_ranks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_stderr_is_a_terminal", lambda: False)
    assert list(Progress(i for i in range(3))) == [0, 1, 2]
    assert "3 items" in capsys.readouterr().err
    with pytest.raises(ValueError, match="from the loop"):
        for _ in Progress([1]):
            raise ValueError("from the loop")
    capsys.readouterr()
    silent = Progress(Loader(), shown=lambda: False)
    assert list(silent) == [0, 1, 2]
    silent.set_postfix(loss=1)
    assert capsys.readouterr().err == ""
