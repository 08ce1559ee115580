"""Folders that are whole or not there: damage of every class, and death at every moment of a write."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from dtrain.checkpoint import files
from dtrain.checkpoint.files import Damaged, checkpoints, prepare, prune, read, whole, write
from tests.launch.jobs import ROOT

ARRAYS = {"model.weight": np.arange(50, dtype=np.float32), "n": np.array(7)}


def steps(directory: Path) -> list[int]:
    return [step for step, _ in checkpoints(directory)]


def test_written_and_read(tmp_path: Path) -> None:
    write(tmp_path, 3, {"step": 3, "x": [0.1, float("nan")]}, ARRAYS)
    ((step, folder),) = checkpoints(tmp_path)
    content, blob = read(folder)
    assert (step, folder.name, content["step"]) == (3, "step-00000003", 3)
    assert content["x"][0] == 0.1 and content["x"][1] != content["x"][1]
    from safetensors.numpy import load

    got = load(blob)
    assert got.keys() == ARRAYS.keys() and all(np.array_equal(got[n], a) for n, a in ARRAYS.items())
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000003"]


def test_one_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    fsync, replace = os.fsync, os.replace

    def sync(file: int) -> None:
        happened.append(Path(os.readlink(f"/proc/self/fd/{file}")).name)
        fsync(file)

    def move(old: Path, new: Path) -> None:
        happened.append(f"rename to {new.name}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", move)
    with whole(tmp_path / "x.pt") as temporary:
        temporary.write_bytes(b"one")
    assert happened == [temporary.name, "rename to x.pt", tmp_path.name]
    with pytest.raises(KeyError), whole(tmp_path / "x.pt") as temporary:
        temporary.write_bytes(b"t")
        raise KeyError
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x.pt", b"one")]


def test_files_are_on_the_disk_before_their_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash of the whole machine, which no killed process shows."""
    happened: list[str] = []
    fsync, rename = os.fsync, os.rename

    def sync(file: int) -> None:
        happened.append(Path(os.readlink(f"/proc/self/fd/{file}")).name)
        fsync(file)

    def move(old: Path, new: Path) -> None:
        happened.append(f"rename to {new.name}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", move)
    prepare(tmp_path / "run", 1)
    assert happened == [tmp_path.name]
    happened.clear()
    write(tmp_path / "run", 3, {}, ARRAYS)
    assert happened[:2] == ["state.safetensors", "checkpoint.json"]
    assert happened[2].startswith(".step-00000003.") and happened[3:] == ["rename to step-00000003", "run"]


@pytest.mark.parametrize("name", ["state.safetensors", "checkpoint.json"])
def test_every_truncation_and_every_flipped_bit_is_seen(name: str, tmp_path: Path) -> None:
    write(tmp_path, 1, {"step": 1, "M": 4}, ARRAYS)
    folder = checkpoints(tmp_path)[0][1]
    file, good = folder / name, (folder / name).read_bytes()
    for length in range(len(good)):
        file.write_bytes(good[:length])
        with pytest.raises(Damaged, match=name.replace(".", r"\.")):
            read(folder)
    file.write_bytes(good + b"\0")
    with pytest.raises(Damaged, match=name):
        read(folder)
    for at in range(len(good)):
        for bit in (1, 32, 128) if len(good) > 300 else (1 << b for b in range(8)):
            file.write_bytes(good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :])
            with pytest.raises(Damaged):
                read(folder)
    file.unlink()
    with pytest.raises(Damaged, match=f"{name} is missing"):
        read(folder)
    file.write_bytes(good)
    read(folder)


def test_the_last_ones_are_kept_and_damaged_ones_beyond_set_aside(tmp_path: Path) -> None:
    for step in (1, 2, 10, 30, 20, 100_000_000):
        write(tmp_path, step, {"step": step}, {})
    assert steps(tmp_path) == [100_000_000, 30, 20, 10, 2, 1]
    prune(tmp_path, 20, 2)  # the run went on from 10: those beyond 20 were not whole
    assert steps(tmp_path) == [20, 10]
    assert {p.name for p in tmp_path.iterdir() if p.suffix} == {"step-00000030.damaged", "step-100000000.damaged"}
    write(tmp_path, 30, {"step": 30}, {})
    write(tmp_path, 20, {"step": 20, "again": True}, {})
    prune(tmp_path, 20, 1)
    assert steps(tmp_path) == [20]
    assert read(tmp_path / "step-00000020")[0]["again"]


def test_a_whole_one_is_replaced_by_the_next_of_its_step(tmp_path: Path) -> None:
    for again in (False, True):
        folder = write(tmp_path, 20, {"step": 20, "again": again}, ARRAYS)
    assert read(folder)[0]["again"]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000020"]


def test_what_dead_writers_left_is_removed_and_what_living_ones_write_is_not(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        host = os.uname().nodename
        names = [f".step-00000005.{h}.{pid}" for h, pid in ((host, living.pid), (host, 2**22 + 1), ("other", 1))]
        for name in names:
            (tmp_path / name).mkdir()
            (tmp_path / name / "state.safetensors").write_text("half")
        prepare(tmp_path, 0)
        assert [p.name for p in tmp_path.iterdir()] == names[:1]
        living.communicate(b"\n")
    prepare(tmp_path, 0)
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=f"no checkpoint can be written to {tmp_path}/file/run: Not a directory"):
        prepare(tmp_path / "file" / "run", 0)
    prepare(tmp_path / "new" / "run", 10)
    with pytest.raises(OSError, match=r"it needs 1,\d\d\d,000,000,000,000,000 bytes, \d"):
        prepare(tmp_path, 1_100_000_000_000_000_000)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="run: No space left on device"):
        prepare(tmp_path / "new" / "run", 10)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1, {"step": 1}, ARRAYS)
    monkeypatch.setattr(files, "_to_disk", lambda path: path.name != "checkpoint.json" or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path, 2, {"step": 2}, ARRAYS)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import numpy as np
    from dtrain.checkpoint import files

    directory = Path(sys.argv[1])
    arrays = lambda step: {"w": np.full(1000, step, np.float32)}

    def run(fatal):
        # Die just before the call number `fatal` to the file system, or in the middle of a file's bytes.
        calls = 0
        def counted(function, half=None):
            def call(*args, **options):
                nonlocal calls
                for torn in (False, True) if half else (False,):
                    calls += 1
                    if calls == fatal:
                        if torn:
                            half(*args)
                        os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **options)
            return call
        def half_save(arrays, path):
            files.save_file.__wrapped__(arrays, path)
            os.truncate(path, os.path.getsize(path) // 2)
        def half_text(path, text):
            with open(path, "w") as file:
                file.write(text[: len(text) // 2])
        save, files.save_file = files.save_file, counted(files.save_file, half_save)
        files.save_file.__wrapped__ = save
        Path.write_text = counted(Path.write_text, half_text)
        for name in ("fsync", "rename", "mkdir", "unlink", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        files.prepare(directory, 0)
        files.write(directory, 30, {"step": 30}, arrays(30))
        files.prune(directory, 30, 2)

    for fatal in range(1, 100):
        for step in (10, 20):
            files.write(directory, step, {"step": step}, arrays(step))
        if os.fork() == 0:
            run(fatal)
            os._exit(0)
        _, status = os.wait()
        there = files.checkpoints(directory)
        newest = files.read(there[0][1])
        print(fatal, os.waitstatus_to_exitcode(status), [step for step, _ in there], newest[0]["step"], flush=True)
        for step, folder in there:
            content, blob = files.read(folder)
            assert content["step"] == step
        files.prepare(directory, 0)
        assert not list(directory.glob(".*")), list(directory.glob(".*"))
        for _, folder in there:
            files.shutil.rmtree(folder)
        if status == 0:
            break
"""


def test_death_at_every_moment_of_a_write_leaves_whole_checkpoints(tmp_path: Path) -> None:
    script = textwrap.dedent(KILLED)
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    (tmp_path / "run").mkdir()
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    assert [int(number) for number, _, _ in lines] == list(range(1, len(lines) + 1))
    codes, left = [code for _, code, _ in lines], [rest for _, _, rest in lines]
    assert codes == ["-9"] * (len(lines) - 1) + ["0"] and len(lines) > 15
    assert left[0] == "[20, 10] 20" and left[-1] == "[30, 20] 30"
    assert set(left) == {"[20, 10] 20", "[30, 20, 10] 30", "[30, 20] 30"}
    assert left == sorted(left, key=["[20, 10] 20", "[30, 20, 10] 30", "[30, 20] 30"].index)
