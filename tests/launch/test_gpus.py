"""Jobs on GPUs, where `import cupy` finds the stand-in: which one a rank gets, the same bits, and errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dtrain
from dtrain.comm import run_ranks
from launch import Job, gpus
from tests.backend.cuda.conftest import gpu  # noqa: F401
from tests.examples.programs import EXAMPLES, result_of, write_small_data
from tests.launch.jobs import ROOT, environment, mpirun, needs_mpi, run

ON_STAND_IN = ROOT / "tests" / "launch" / "on_stand_in.py"


@needs_mpi
def test_the_example_has_the_same_bits_at_any_number_of_ranks(tmp_path: Path) -> None:
    write_small_data(tmp_path)
    results = []
    for ranks in (0, 2):
        command = [mpirun() or "mpirun", "-n", str(ranks)] if ranks else []
        command += [sys.executable, str(ON_STAND_IN), str(EXAMPLES / "train.py"), "--device", "cuda", "--threads", "1"]
        command += ["--steps", "2", "--data", str(tmp_path), "--checkpoint-dir", str(tmp_path / str(ranks))]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=180)
        results.append(result_of(done))
        assert ("ranks 0, 1 share one GPU" in done.stderr) == (ranks == 2)
    assert results[0]["sha256"] == results[1]["sha256"] and results[1]["ranks"] == 2


@needs_mpi
def test_without_a_gpu_every_rank_says_what_to_do_and_nothing_hangs(tmp_path: Path) -> None:
    script = "import sys; sys.modules['cupy'] = None; import launch; launch.Job(device='cuda')"
    ended = run("mpirun", script, tmp_path, ranks=2)
    assert ended.code != 0
    assert ended.output.count("ValueError: rank 0: device 'cuda' is not available: CuPy cannot be imported") == 1
    assert "pip install 'dtrain[cuda13]'" in ended.output


@pytest.mark.parametrize(
    ("hosts", "of_host", "device", "expected", "said"),
    [
        ("aabb", 2, "cuda", [0, 1, 0, 1], "NCCL"),
        ("aabb", 2, "cuda:1", [1, 1, 1, 1], "ranks 0, 1 share one GPU (host 0, 0000:01:00.0)"),
        ("aaaa", 2, "cuda", [0, 1, 0, 1], "ranks 0, 2 share one GPU (host 0, 0000:00:00.0)"),
        ("ab", 1, "cuda", [0, 0], "NCCL"),
    ],
)
def test_which_gpu_a_rank_gets(gpu, monkeypatch, hosts, of_host, device, expected, said):  # noqa: F811
    monkeypatch.setattr(gpu.cuda.runtime, "getDeviceCount", lambda: of_host)
    warned = []
    monkeypatch.setattr(gpus.warnings, "warn", lambda text, **options: warned.append(text))

    def take(comm):
        return gpus.bind(device, comm), comm.nccl

    found = run_ranks(len(hosts), take, hosts=list(hosts))
    assert [name for name, _ in found] == [f"cuda:{i}" for i in expected]
    assert all((nccl is not None) == (said == "NCCL") for _, nccl in found)
    assert (said == "NCCL" and not warned) or said in warned[0]


def test_without_nccl_it_says_so(gpu, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(gpu.cuda.runtime, "getDeviceCount", lambda: 2)
    monkeypatch.setattr(gpu.cuda.nccl, "available", False)
    assert run_ranks(2, lambda comm: (gpus.bind("cuda", comm), comm.nccl)[1]) == [None, None]
    assert capsys.readouterr().err.count("without NCCL: CuPy cannot load NCCL; pip install nvidia-nccl-cu13") == 1


def test_errors_are_the_same_on_every_rank(gpu, monkeypatch):  # noqa: F811
    monkeypatch.setattr(gpu.cuda.runtime, "getDeviceCount", lambda: 2)
    for device, message in (
        ("cuda:2", "'cuda:2' is not available: this process sees 2 GPU"),
        ("cuda:x", "device must be 'cpu', 'cuda' or 'cuda:0' and so on, got 'cuda:x'"),
        ("mps", "device must be 'cpu', 'cuda' or 'cuda:0' and so on, got 'mps'"),
    ):
        with pytest.raises(ValueError, match=f"rank 0: .*{message}"):
            run_ranks(2, lambda comm, d=device: gpus.bind(d, comm))


def test_one_process_on_a_gpu(gpu):  # noqa: F811
    job = Job(device="cuda", threads=1)
    assert job.device == "cuda:0" and job.comm.nccl is None
    x = dtrain.ones(2).to(job.device)
    np.testing.assert_array_equal((x + x).cpu().numpy(), [2, 2])
