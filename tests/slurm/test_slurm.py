"""The files of slurm/ on a real Slurm: two nodes, two ranks on each.

A test submits a file from a folder of its own, with nothing changed in it but the three marked lines.
`examples/train.py` there is the project's, or a script that brings about what the test is about.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.runtime import find_mpirun, library_family
from tests.examples.programs import EXAMPLES, result_in, result_of, run_example, write_small_data
from tests.launch.jobs import ROOT, needs_mpi
from tests.slurm.cluster import ENDED, Slurm, slurm, why_not

reason = why_not()
pytestmark = [needs_mpi, pytest.mark.skipif(reason is not None, reason=f"no Slurm: {reason}")]

TWO_BY_TWO = ("--nodes=2", "--ntasks=4", "--ntasks-per-node=2")


@functools.cache
def mpi() -> str:
    return library_family()[0] or "an unknown MPI"


def requires(family: str) -> None:
    if mpi() != family:
        pytest.skip(f"about {family}, this environment has {mpi()}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm(2, 4, tmp_path_factory.mktemp("slurm")) as found:
        yield found


class Submission:
    """A file of slurm/ in a folder of its own, beside the `examples` that it names."""

    def __init__(self, cluster: Slurm, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        mpirun = ("OMPI_MCA_", "PRTE_MCA_")  # what mpirun is told where there is no Slurm
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(mpirun)}
        self.environment |= {"PYTHONPATH": str(ROOT), "DTRAIN_DATA": str(folder)}
        # Of each host its own: mpirun's daemons leave files named after their numbers, which are few here.
        self.environment |= {"TMPDIR": "/dev/shm"}
        self.environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        (folder / "examples").mkdir()
        (folder / "examples" / "train.py").symlink_to(EXAMPLES / "train.py")
        write_small_data(folder)

    def program(self, text: str) -> None:
        """Put another program in the place of the project's examples/train.py."""
        (self.folder / "examples" / "train.py").unlink()
        (self.folder / "examples" / "train.py").write_text(text)

    def submit(self, name: str, *options: str, time: str = "00:10:00", replace: tuple[str, str] = ("", "")) -> str:
        """Submit a file with its three lines changed, and `replace`; returns the job's number."""
        changes = {
            "#SBATCH --cpus-per-task=": "#SBATCH --cpus-per-task=1",
            "#SBATCH --time=": f"#SBATCH --time={time}",
            "source ": f'PATH="{os.path.dirname(sys.executable)}:$PATH"',
        }
        lines = (ROOT / "slurm" / name).read_text().splitlines()
        for number, line in enumerate(lines):
            if "# <-- change: " in line:
                lines[number] = changes.pop(next(start for start in changes if line.startswith(start)))
        assert not changes
        self.file = self.folder / name
        self.file.write_text("\n".join(lines).replace(*replace) + "\n")
        return self.cluster.submit(self.file, *options, environment=self.environment)

    def log(self, number: str) -> str:
        """What the job has printed."""
        (file,) = self.folder.glob(f"*-{number}.log")
        return file.read_text()


@pytest.fixture
def submission(cluster: Slurm, tmp_path: Path) -> Submission:
    return Submission(cluster, tmp_path)


SAME = ("sha256", "loss", "accuracy", "threads", "microbatches", "data")


@functools.cache
def reference(microbatches: int) -> dict[str, object]:
    """What SAME are after the same training with mpirun, undisturbed, on three ranks."""
    with tempfile.TemporaryDirectory() as folder:
        write_small_data(Path(folder))
        arguments = ("--microbatches", str(microbatches), "--threads", "1", "--data", folder)
        result = result_of(run_example("train.py", *arguments, ranks=3))
    return {name: result[name] for name in SAME}


@pytest.mark.parametrize(
    ("name", "options", "microbatches"),
    [("one_node.sbatch", (), 4), ("several_nodes.sbatch", TWO_BY_TWO, 32), ("openmpi.sbatch", TWO_BY_TWO, 32)],
    ids=["one node", "several nodes", "Open MPI"],
)
def test_a_job_gives_the_bits_of_mpirun(
    name: str, options: tuple[str, ...], microbatches: int, submission: Submission
) -> None:
    requires("Open MPI" if name == "openmpi.sbatch" else "MPICH")
    number = submission.submit(name, *options)
    job = submission.cluster.wait(number)
    log = submission.log(number)
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), log
    assert job["NumNodes"] == ("2" if options else "1")
    got = result_in(log)
    assert got["ranks"] == 4
    assert {name: got[name] for name in SAME} == reference(microbatches)


def test_the_file_for_gpus_is_accepted(cluster: Slurm, submission: Submission) -> None:
    """By a cluster whose nodes say that they have GPUs; nothing is run."""
    submission.submit("gpus.sbatch", "--test-only")


def several_nodes() -> str:
    """The file for this environment's MPI."""
    return "openmpi.sbatch" if mpi() == "Open MPI" else "several_nodes.sbatch"


def in_place_of_srun(launcher: str) -> tuple[str, str]:
    """What starts the ranks of several_nodes.sbatch, and what is to start them instead."""
    srun = (ROOT / "slurm" / "several_nodes.sbatch").read_text().partition("\nsrun ")[2].partition(" python ")[0]
    return f"srun {srun} python", launcher


# The project's train.py, but in the first run each rank says that it has done 7 steps, and goes on
# when it has been asked to stop and the file "go on" is there.
HELD = f"""
import os, runpy, time
from pathlib import Path
from dtrain.checkpoint import Checkpointer

own = Checkpointer.step

def step(self):
    if self.steps == 7 and "SLURM_RESTART_COUNT" not in os.environ:
        Path(f"held {{self.comm.rank}}").touch()
        while not (self.comm.stop_requested and Path("go on").exists()):
            time.sleep(0.01)
    own(self)

Checkpointer.step = step
runpy.run_path("{EXAMPLES / "train.py"}", run_name="__main__")
"""


def test_the_time_limit_comes_and_the_job_is_resumed(submission: Submission) -> None:
    """Slurm's own warning before the limit, a checkpoint, `scontrol requeue`, and the bits of the undisturbed run."""
    cluster, folder = submission.cluster, submission.folder
    submission.program(HELD)
    number = submission.submit(several_nodes(), *TWO_BY_TWO)
    cluster.wait(number, lambda job: job["JobState"] in ENDED or len([*folder.glob("held *")]) == 4)
    # The file asks for a warning 120 s before the limit: make it due now. Slurm looks every 30 s.
    hours, minutes, seconds = map(int, cluster.job(number)["RunTime"].split(":"))
    cluster.run("scontrol", "update", f"JobId={number}", f"TimeLimit={60 * hours + minutes + 2}")
    cluster.wait(number, lambda job: job["JobState"] in ENDED or "SIGUSR1" in submission.log(number))
    cluster.run("scontrol", "update", f"JobId={number}", "TimeLimit=10")
    (folder / "go on").touch()
    job = cluster.wait(number)
    log = submission.log(number)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), log
    assert "asked to stop: step 9 is done and saved in checkpoints" in log, log
    got = result_in(log)
    assert got["ranks"] == 4
    assert {name: got[name] for name in SAME} == reference(microbatches=32)


def test_a_cancelled_job_does_not_come_back(submission: Submission) -> None:
    """scancel sends the SIGTERM at which a job writes a checkpoint and leaves with the code for another run."""
    cluster, folder = submission.cluster, submission.folder
    submission.program(HELD)
    number = submission.submit(several_nodes(), *TWO_BY_TWO)
    cluster.wait(number, lambda job: job["JobState"] in ENDED or len([*folder.glob("held *")]) == 4)
    cluster.run("scancel", number)
    (folder / "go on").touch()
    cluster.wait(number)
    # Another job needs both nodes, and so begins when the first has left them.
    submission.program("import launch; launch.Job()")
    another = submission.submit(several_nodes(), *TWO_BY_TWO)
    cluster.wait(another)
    job = cluster.job(number)
    assert (job["JobState"], job["Restarts"]) == ("CANCELLED", "0"), submission.log(number)


def refusal(log: str) -> str:
    """The one error of a job whose processes are not connected."""
    (message,) = re.findall(r"^RuntimeError: (srun.* says that there are 4 ranks .*)$", log, re.MULTILINE)
    return message


def test_the_wrong_mpi_of_srun_is_refused(submission: Submission) -> None:
    requires("MPICH")
    number = submission.submit("several_nodes.sbatch", *TWO_BY_TWO, replace=("--mpi=pmi2", "--mpi=none"))
    job = submission.cluster.wait(number)
    assert job["JobState"] == "FAILED"
    message = refusal(submission.log(number))
    assert "(SLURM_STEP_NUM_TASKS=4), but MPI sees 1" in message and "Write `srun --mpi=pmi2`" in message


def test_srun_is_refused_by_open_mpi(submission: Submission) -> None:
    requires("Open MPI")
    number = submission.submit("several_nodes.sbatch", *TWO_BY_TWO)
    job = submission.cluster.wait(number)
    assert job["JobState"] == "FAILED"
    message = refusal(submission.log(number))
    assert "write `python -m launch -n 4` (or mpirun) in the place of `srun ... python`" in message


@pytest.mark.parametrize("launcher", ["python -m launch", find_mpirun()], ids=["launch", "mpirun"])
def test_other_launchers_in_an_allocation(launcher: str, submission: Submission) -> None:
    """What the refusals say to write works."""
    submission.program("import launch; job = launch.Job(); print(job.comm.all_gather_object(job.host))")
    replace = in_place_of_srun(f"{launcher} -n 4" + (" python" if "mpirun" in launcher else ""))
    number = submission.submit("several_nodes.sbatch", *TWO_BY_TWO, replace=replace)
    job = submission.cluster.wait(number)
    log = submission.log(number)
    assert job["JobState"] == "COMPLETED", log
    assert log.count("['host1', 'host1', 'host2', 'host2']") == 4


def test_a_killed_rank_ends_the_job(submission: Submission) -> None:
    requires("MPICH")
    submission.program(
        """
import os, signal
import launch

job = launch.Job()
if job.rank == 3:
    os.kill(os.getpid(), signal.SIGKILL)
job.comm.barrier()
"""
    )
    number = submission.submit("several_nodes.sbatch", *TWO_BY_TWO)
    job = submission.cluster.wait(number)
    assert job["JobState"] == "FAILED"
    log = submission.log(number)
    assert re.findall(r"\[rank (\d) on (\w+)\] was killed by signal 9", log) == [("3", "host2")]
