"""python -m launch: the command that it would run, and its refusals."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.runtime import family_of, settings
from tests.launch.jobs import run

VERSIONS = {  # the first line of what mpirun and the library say
    "MPICH": ("HYDRA build details:", "MPICH Version: 5.0.2"),
    "Open MPI": ("mpirun (Open MPI) 5.0.11", "Open MPI v5.0.11, package: Open MPI"),
    "Intel MPI": ("Intel(R) MPI Library for Linux* OS, Version 2021.13", "Intel(R) MPI Library"),
}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "PMI_", "OMPI_", "PRTE_", "PBS_", "LSB_")):
            monkeypatch.delenv(name)
    (tmp_path / "train.py").write_text("import sys; print(sys.argv[1:]); sys.exit(len(sys.argv))")
    monkeypatch.chdir(tmp_path)
    return Machine(tmp_path / "bin", monkeypatch)


class Machine:
    """A made-up machine: programs in a folder that is all of PATH, beside a made-up Python."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        folder.mkdir()
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.setattr(sys, "executable", str(folder / "python"))

    def program(self, name: str, says: str) -> None:
        file = self.folder / name
        file.write_text(f"#!/bin/sh\necho '{says}'\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    def has(self, mpirun: str | None = None, library: str | None = None, srun: bool = False) -> None:
        if mpirun:
            self.program("mpirun", VERSIONS[mpirun][0])
        if library:  # the made-up Python answers the question which library mpi4py loads
            self.program("python", VERSIONS[library][1])
        if srun:
            self.program("srun", "slurm")
            self.monkeypatch.setenv("SLURM_JOB_ID", "7")


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    with pytest.raises(SystemExit) as left:
        main(["--dry-run", *arguments])
    out, err = capsys.readouterr()
    assert left.value.code == 0, err
    return shlex.split(out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as left:
        main(["--dry-run", *arguments])
    assert left.value.code == 2
    return capsys.readouterr().err


def test_mpirun(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.has("MPICH", "MPICH")
    python, mpirun = str(machine.folder / "python"), str(machine.folder / "mpirun")
    command = planned(capsys, "-n", "4", "train.py", "--epochs", "1", "-n", "x y")
    assert command == [mpirun, "-n", "4", python, "train.py", "--epochs", "1", "-n", "x y"]
    command = planned(capsys, "-n", "2", "--threads", "3", "-m", "json.tool", "-h")
    assert command == ["DTRAIN_THREADS=3", mpirun, "-n", "2", python, "-m", "json.tool", "-h"]
    assert planned(capsys, "-n", "1", "train.py", "a") == [python, "train.py", "a"]


def test_srun(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.has("MPICH", "MPICH", srun=True)
    srun = ["srun", "--mpi=pmi2", "--kill-on-bad-exit=1", "-n", "4"]
    assert planned(capsys, "-n", "4", "train.py")[:5] == srun
    command = planned(capsys, "-n", "4", "--launcher", "mpirun", "train.py")
    assert command[0].endswith("mpirun")
    machine.has("Open MPI", "Open MPI")
    command = planned(capsys, "-n", "4", "train.py")
    assert str(machine.folder / "mpirun") in command and "srun" not in command
    message = refused(capsys, "-n", "4", "--launcher", "srun", "train.py")
    assert "srun --mpi=pmi2 cannot connect ranks of Open MPI" in message


def test_open_mpi_is_told_what_it_needs(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.has("Open MPI", "Open MPI")
    command = planned(capsys, "-n", "2", "train.py")
    assert "PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe" in command
    assert ("OMPI_ALLOW_RUN_AS_ROOT=1" in command) == (os.geteuid() == 0)
    more = len(os.sched_getaffinity(0)) + 1  # ranks than cores
    yields = "OMPI_MCA_mpi_yield_when_idle"
    assert settings("MPICH", more, {}) == {}
    assert settings("Open MPI", more, {})[yields] == "1" and yields not in settings("Open MPI", 1, {})
    assert "OMPI_MCA_pml" in settings("Open MPI", 2, {})
    assert "OMPI_MCA_pml" not in settings("Open MPI", 2, {"OMPI_MCA_btl": "tcp,self"})
    assert yields not in settings("Open MPI", more, {yields: "0"})
    in_slurm = settings("Open MPI", more, {"SLURM_JOB_ID": "7"})
    assert not {"OMPI_MCA_pml", "PRTE_MCA_rmaps_default_mapping_policy", yields} & set(in_slurm)


def test_survival_needs_open_mpi_5(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.has("Open MPI", "Open MPI")
    mpirun = str(machine.folder / "mpirun")
    command = planned(capsys, "-n", "4", "--survive", "train.py")
    assert command[command.index(mpirun) :][:5] == [mpirun, "--with-ft", "ulfm", "-x", "DTRAIN_KEEPER"]
    machine.has("MPICH", "MPICH")
    message = refused(capsys, "-n", "4", "--survive", "train.py")
    assert "needs mpirun of Open MPI 5" in message and "this is MPICH Version: 5.0.2; or use --restarts" in message
    assert "ulfm" not in planned(capsys, "-n", "4", "--survive", "--restarts", "1", "train.py")


def test_refusals(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert "-n must be at least 1 rank, got 0" in refused(capsys, "-n", "0", "train.py")
    assert "--restarts must be at least 0, got -1" in refused(capsys, "-n", "2", "--restarts", "-1", "train.py")
    assert "--threads must be" in refused(capsys, "-n", "2", "--threads", "0", "train.py")
    assert "script no.py does not exist" in refused(capsys, "-n", "2", "no.py")
    assert "no module named nowhere" in refused(capsys, "-n", "2", "-m", "nowhere")
    machine.has(library="MPICH")
    assert "no mpirun in" in refused(capsys, "-n", "2", "train.py")
    assert "no srun on PATH" in refused(capsys, "-n", "2", "--launcher", "srun", "train.py")
    machine.has("Open MPI")
    message = refused(capsys, "-n", "2", "train.py")
    assert "belongs to Open MPI (mpirun (Open MPI) 5.0.11)" in message
    assert "mpi4py loads MPICH (MPICH Version: 5.0.2)" in message
    (machine.folder / "python").write_text("#!/bin/sh\necho 'No module named mpi4py' >&2; exit 1")
    assert "(No module named mpi4py); pip install" in refused(capsys, "-n", "2", "train.py")
    machine.monkeypatch.setenv("PMI_SIZE", "3")
    assert "already one of 3 ranks (PMI_SIZE=3)" in refused(capsys, "-n", "2", "train.py")


@pytest.mark.parametrize("family", VERSIONS)
def test_families(family: str) -> None:
    assert [family_of(text) for text in VERSIONS[family]] == [family, family]
    assert family_of("something else") is None


def test_one_rank_becomes_the_script(tmp_path: Path) -> None:
    script = "import sys; sys.exit('mpi4py' in sys.modules or 5)"
    assert run("launch", script, tmp_path, ranks=1).code == 5
