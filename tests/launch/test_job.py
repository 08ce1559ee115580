"""What a job finds out about itself: ranks, threads, agreement, and one process without MPI."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

from dtrain.backend import cpu
from dtrain.backend.random import key, manual_seed
from launch import Job
from launch.environment import World, launched_world
from launch.threads import VARIABLES, default_threads, host_cores
from tests.launch.jobs import LAUNCHERS, needs_mpi, run

SLURM_STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(
    ("environment", "world"),
    [
        ({}, None),
        ({"PMI_SIZE": "4", "PMI_RANK": "3", "MPI_LOCALRANKID": "1"}, (4, 3, 1)),
        (
            {
                "OMPI_COMM_WORLD_SIZE": "2",
                "OMPI_COMM_WORLD_RANK": "1",
                "OMPI_COMM_WORLD_LOCAL_RANK": "0",
            },
            (2, 1, 0),
        ),
        (SLURM_STEP | {"SLURM_NTASKS": "8"}, (8, 5, 1)),
        (SLURM_STEP | {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "6"}, (6, 5, 1)),
        (SLURM_STEP | {"PMI_SIZE": "8", "PMI_RANK": "5"}, (8, 5, 1)),
        # mpirun inside an allocation starts its daemons, one per host, with srun.
        (SLURM_STEP | {"SLURM_NTASKS": "2", "PMI_SIZE": "8", "MPI_LOCALRANKID": "3"}, (8, 0, 3)),
        # The batch script itself is no task of a step.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}, None),
        (SLURM_STEP | {"SLURM_NTASKS": "8", "SLURM_STEP_ID": "4294967291"}, None),
    ],
)
def test_environment(environment: dict[str, str], world: tuple[int, int, int] | None) -> None:
    found = launched_world(environment)
    assert (found and (found.size, found.rank, found.local_rank)) == world


def test_a_broken_environment_is_named() -> None:
    with pytest.raises(RuntimeError, match="PMI_SIZE=4 says .* PMI_RANK is 'x'; unset PMI_SIZE"):
        launched_world({"PMI_SIZE": "4", "PMI_RANK": "x"})
    assert launched_world({"PMI_SIZE": "1"}) == World(1, 0, 0, "PMI_SIZE", "mpirun of MPICH or Intel MPI")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A process of which no launcher knows; what a job sets is set back afterwards."""
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_PROCID", "DTRAIN_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name in VARIABLES:
        monkeypatch.setenv(name, "1")
    with threadpool_limits():
        yield monkeypatch
    manual_seed(0)


def test_one_process(alone: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    alone.setenv("SLURM_CPUS_ON_NODE", "8")
    job = Job(seed=3)
    assert (job.rank, job.size, job.local_rank, job.local_size) == (0, 1, 0, 1)
    assert (job.seed, key.seed, job.device, job.microbatches) == (3, 3, "cpu", 1)
    assert job.threads == 8 and os.environ["OMP_NUM_THREADS"] == "8"
    job.comm.settle_microbatches(4)  # as a model does
    assert job.microbatches == 4
    assert job.threads == 2 and os.environ["OMP_NUM_THREADS"] == "2"
    job.print("hello")
    assert capsys.readouterr().out == "hello\n"
    assert Job(microbatches=2).threads == 4
    assert Job(microbatches=2, threads=1).threads == 1
    alone.setenv("DTRAIN_THREADS", "3")
    assert Job(microbatches=2).threads == 3
    with pytest.warns(UserWarning, match="1 ranks with 9 threads each share the 8 cores"):
        Job(threads=9)


def test_bad_arguments(alone: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        Job(threads=0)
    for timeout in (-1, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"timeout must be a number of seconds, .* got {timeout}"):
            Job(timeout=timeout)
    with pytest.raises(ValueError, match="device must be 'cpu', 'cuda' .* got 'mps'"):
        Job(device="mps")
    with pytest.raises(ValueError, match="0 microbatches cannot be shared by 1 ranks"):
        Job(microbatches=0)
    alone.setenv("DTRAIN_THREADS", "many")
    with pytest.raises(ValueError, match="DTRAIN_THREADS must be a whole number .* 'many'"):
        Job()
    alone.setenv("DTRAIN_TIMEOUT", "soon")
    with pytest.raises(ValueError, match="DTRAIN_TIMEOUT must be a number of seconds, 0 for no limit, got 'soon'"):
        Job(timeout=None, threads=1)


def test_default_threads() -> None:
    assert default_threads([64, 48], 8) == 6  # the smallest host's
    assert default_threads([4], 64) == 1
    assert host_cores() >= 1


def test_one_process_imports_neither_mpi4py_nor_cupy(tmp_path: Path) -> None:
    script = """
        import sys
        sys.modules["mpi4py"] = sys.modules["cupy"] = None  # importing them raises
        import numpy as np
        import dtrain, dtrain.comm, launch

        hook = sys.excepthook
        job = launch.Job(seed=1)
        x = np.ones(3)
        job.comm.allreduce_(x)
        job.comm.iallreduce_(x).wait()
        for _ in job.progress([1, 2]):
            pass
        assert sys.excepthook is hook and x.sum() == 3
        assert sys.modules["mpi4py"] is None and sys.modules["cupy"] is None
        print("done")
        sys.exit(4)
    """
    ended = run("python", script, tmp_path)
    assert ended.code == 4 and "done" in ended.output
    several = run("python", script, tmp_path, more={"PMI_SIZE": "3"})
    assert several.code != 0
    assert "has started 3 ranks (PMI_SIZE=3), and mpi4py cannot be imported" in several.output


@needs_mpi
@pytest.mark.parametrize(
    ("variables", "advice"),
    [
        ({"PMI_SIZE": "4"}, "python -m launch -n N"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "python -m launch -n N"),
        ({"SLURM_NTASKS": "4"} | SLURM_STEP, "srun"),
        ({"PMI_SIZE": "4"} | SLURM_STEP, "srun"),
    ],
)
def test_the_wrong_mpi_is_refused(variables: dict[str, str], advice: str, tmp_path: Path) -> None:
    # As if another MPI's mpirun, or srun, had started four of these: MPI sees one process, alone.
    ended = run("python", "import launch; launch.Job()", tmp_path, more=variables)
    assert ended.code != 0
    assert f"there are 4 ranks ({next(iter(variables))}=4), but MPI sees 1" in ended.output
    assert re.search("MPICH|Open MPI v|Intel", ended.output)
    if advice == "srun":
        open_mpi = "Open MPI v" in ended.output
        advice = "write `python -m launch -n 4` (or mpirun)" if open_mpi else "Write `srun --mpi=pmi2`"
    assert advice in ended.output


@needs_mpi
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_threads_do_not_depend_on_the_ranks(launcher: str, tmp_path: Path) -> None:
    script = """
        import json, os
        import launch
        from threadpoolctl import threadpool_info

        job = launch.Job(microbatches=4)
        pools = sorted({pool["num_threads"] for pool in threadpool_info()})
        job.print(json.dumps([job.size, job.threads, pools, os.environ["OMP_NUM_THREADS"]]))
    """
    found = {}
    for ranks in (1, 2, 4):
        ended = run(launcher, script, tmp_path, ranks, more={"SLURM_CPUS_ON_NODE": "8"})
        assert ended.code == 0
        (line,) = re.findall(r"^\[\d.*\]$", ended.output, re.MULTILINE)
        size, *found[ranks] = json.loads(line)
        assert size == ranks
    assert found[1] == found[2] == found[4] == [2, [2], "2"]


@needs_mpi
def test_ranks_that_disagree(tmp_path: Path) -> None:
    script = """
        import launch
        from launch.environment import launched_world

        rank = launched_world().rank
        launch.Job(seed=7 if rank == 2 else 0)
    """
    ended = run("mpirun", script, tmp_path)
    assert ended.code != 0
    assert ended.output.count("ranks disagree about seed: rank 0: 0, rank 2: 7; pass") == 1


@needs_mpi
@pytest.mark.parametrize("rank", [1, 7], ids=["one without oneDNN", "all alike"])
def test_ranks_with_other_libraries_are_named(tmp_path: Path, rank: int) -> None:
    script = f"""
        import os
        from launch.environment import launched_world

        if launched_world().rank == {rank}:
            os.environ["DTRAIN_ONEDNN"] = "0"
        import launch

        launch.Job()
    """
    ended = run("mpirun", script, tmp_path)
    assert ended.code == 0, ended.output
    named = re.findall(r"different libraries or processors \(oneDNN: rank 0 has [\d.]+, rank 1 none\)", ended.output)
    assert len(named) == (cpu.available() and rank == 1)
    assert named or "libraries" not in ended.output
