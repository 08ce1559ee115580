"""The examples do what they say, in one process and under mpirun."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.examples.programs import EXAMPLES, result_of, run_example, write_idx, write_small_data
from tests.launch.jobs import ROOT, needs_mpi


def test_simple_net_learns() -> None:
    done = run_example("simple_net.py")
    accuracies = [float(a) for a in re.findall(r"accuracy ([\d.]+)%", done.stdout)]
    assert done.returncode == 0, done.stderr
    assert accuracies[-1] > 80 and accuracies == sorted(accuracies)


def test_simple_net_is_a_pytorch_program_but_for_its_imports(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed (extra: torch)")
    text = (EXAMPLES / "simple_net.py").read_text()
    script = tmp_path / "simple_net.py"
    script.write_text(re.sub(r"\bdtrain\b", "torch", text))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "epoch 20" in done.stdout


@pytest.mark.parametrize("ranks", [0, pytest.param(3, marks=needs_mpi)])
def test_one_batch(ranks: int) -> None:
    done = run_example("one_batch.py", ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")


@needs_mpi
@pytest.mark.parametrize("told", ["job", "model and loader"])
def test_the_program_of_the_readme(told: str, tmp_path: Path) -> None:
    """As it stands, and with the number of microbatches given to the model and the loader instead of the job."""
    program, captured = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    compile(captured, "README.md", "exec")  # tests/backend/cuda/test_graph.py runs such a step
    program = program.replace("range(3)", "range(1)")
    if told != "job":
        program = program.replace(", microbatches=8)", ")").replace("job.comm)", "comm=job.comm, microbatches=8)")
        program = program.replace("comm=comm=", "comm=")
    assert program.count("microbatches=8") == (1 if told == "job" else 2)
    show = "import hashlib\njob.print(job.threads, model.loss, hashlib.sha256(\n"
    show += "    b''.join(v.numpy().tobytes() for v in model.state_dict().values())).hexdigest())\n"
    script = tmp_path / "program.py"
    script.write_text(program + show)
    done = [run_example(str(script), ranks=ranks) for ranks in (0, 2, 3)]
    assert [d.returncode for d in done] == [0, 0, 0], done[0].stderr + done[1].stderr
    assert len({d.stdout for d in done}) == 1 and done[0].stdout.count("\n") == 1


@needs_mpi
def test_train_gives_the_same_bits_at_any_number_of_ranks(tmp_path: Path) -> None:
    """600 images in steps of 46: the last step of an epoch has 2, fewer than there are ranks and microbatches."""
    write_small_data(tmp_path)
    options = ("--steps", "30", "--microbatches", "12", "--batch-size", "46", "--data", str(tmp_path))
    want = result_of(run_example("train.py", *options))
    assert want["data"] == "600 images" and want["ranks"] == 1
    for ranks in (1, 2, 3, 4, 6, 12):
        got = result_of(run_example("train.py", *options, ranks=ranks))
        assert got.pop("ranks") == ranks
        for name in ("sha256", "loss", "accuracy", "threads", "microbatches"):
            assert got[name] == want[name], f"{name} on {ranks} ranks"


@needs_mpi
def test_train_without_options_and_what_it_saves(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    files = [tmp_path / "one.safetensors", tmp_path / "four.safetensors"]
    results = [
        result_of(run_example("train.py", "--steps", "2", "--save", str(file), ranks=ranks))
        for file, ranks in zip(files, (0, 4), strict=True)
    ]
    assert results[0]["sha256"] == results[1]["sha256"]
    assert files[0].read_bytes() == files[1].read_bytes()
    saved = load_file(files[0])
    assert saved["conv1.weight"].shape == (32, 1, 3, 3) and saved["norm1.num_batches_tracked"] == 2
    other = result_of(run_example("train.py", "--steps", "2", "--seed", "1"))
    assert other["sha256"] != results[0]["sha256"]


def bad_data(folder: Path, fault: str) -> str:
    """A folder of IDX files with a fault."""
    images, labels = np.zeros((20, 28, 28), np.uint8), np.arange(20, dtype=np.uint8) % 10
    if fault == "label":
        labels[3] = 11
    for name in ("train", "t10k"):
        write_idx(folder, name, images, labels)
    if fault == "truncated":
        file = folder / "train-images-idx3-ubyte"
        file.write_bytes(file.read_bytes()[:-100])
    return str(folder)


@pytest.mark.parametrize("ranks", [0, pytest.param(2, marks=needs_mpi), pytest.param(3, marks=needs_mpi)])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["--data", "{folder}/nowhere"], "nowhere"),
        (["--data", "{truncated}"], "train-images-idx3-ubyte"),
        (["--data", "{label}"], "train-labels-idx1-ubyte"),
        (["--lr", "1e30"], "the loss is (nan|inf) at step"),
        (["--epochs", "0"], "--epochs and --steps must be at least 1, got 0"),
        (["--threads", "0"], "threads must be at least 1, got 0"),
        (["--resume"], "--resume needs the --checkpoint-dir to resume from"),
        (
            ["--checkpoint-dir", "{truncated}/train-images-idx3-ubyte/run"],
            "no checkpoint can be written to .*/run: Not",
        ),
    ],
    ids=[
        "batch size",
        "no data",
        "truncated data",
        "label out of range",
        "NaN",
        "epochs",
        "threads",
        "resume",
        "checkpoints",
    ],
)
def test_bad_input_is_one_error(options: list[str], message: str, ranks: int, tmp_path: Path) -> None:
    folders = {"folder": str(tmp_path)}
    for fault in ("truncated", "label"):
        (tmp_path / fault).mkdir()
        folders[fault] = bad_data(tmp_path / fault, fault)
    done = run_example("train.py", *(o.format(**folders) for o in options), ranks=ranks)
    assert done.returncode != 0
    assert len(re.findall(rf"^\w*Error: .*{message}", done.stderr, re.MULTILINE)) == 1, done.stderr


@needs_mpi
def test_more_ranks_than_microbatches_is_one_error() -> None:
    done = run_example("train.py", "--microbatches", "2", ranks=3)
    assert done.returncode != 0
    assert len(re.findall(r"^ValueError: .*2 microbatches.*3 ranks", done.stderr, re.MULTILINE)) == 1, done.stderr
