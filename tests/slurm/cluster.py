"""A real Slurm on emulated hosts: Debian's packages as they are, without systemd, for as long as a test runs.

The head node, on which jobs are submitted, runs munged and slurmctld; each other host runs slurmd.
All of it is in one folder, and on hosts that the kernel empties of processes when they are closed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.hosts.emulated import Host, hosts
from tests.hosts.emulated import why_not as why_no_hosts

__all__ = ["ENDED", "Slurm", "slurm", "why_not"]

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo")
LIMIT = 120.0  # seconds that anything may take; a test that waits longer has failed
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY"}

CONFIGURATION = """\
ClusterName=dtrain
SlurmctldHost={head.name}({head.address})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={expire}
CredType=cred/munge
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
# Neither cgroups nor a data base.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/builtin
# A look at the queue whenever something has changed, and every second.
SchedulerParameters=sched_min_interval=100000,sched_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# The nodes may be given more cores than this machine has.
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
GresTypes=gpu
NodeName=DEFAULT CPUs={cores} Boards=1 SocketsPerBoard=1 CoresPerSocket={cores} ThreadsPerCore=1
NodeName=DEFAULT RealMemory=1000 Gres=gpu:4
{nodes}
PartitionName=test Nodes=ALL Default=YES MaxTime=10:00:00
"""


class Slurm:
    """A cluster that jobs can be submitted to; `nodes` run them."""

    def __init__(self, head: Host, nodes: Sequence[Host], folder: Path) -> None:
        self.head, self.nodes, self.folder = head, list(nodes), folder

    def run(self, *command: str, environment: Mapping[str, str] | None = None) -> str:
        """Run a command on the head node; returns what it prints. Raises RuntimeError if it fails."""
        variables = {**(environment or os.environ), "SLURM_CONF": str(self.folder / "slurm.conf")}
        done = subprocess.run(self.head.command(*command), capture_output=True, text=True, env=variables, timeout=LIMIT)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def submit(self, file: Path, *options: str, environment: Mapping[str, str] | None = None) -> str:
        """Submit a batch file from its own folder; returns the job's number."""
        sbatch = ["env", f"--chdir={file.parent}", "sbatch", "--parsable", *options, str(file)]
        return self.run(*sbatch, environment=environment).strip()

    def job(self, number: str) -> dict[str, str]:
        """What Slurm says of a job: JobState, ExitCode, Restarts, Reason, ..."""
        text = self.run("scontrol", "show", "job", "--oneliner", number)
        return dict(re.findall(r"(\w+)=(\S*)", text))

    def wait(self, number: str, until: Callable[[dict[str, str]], bool] | None = None) -> dict[str, str]:
        """Wait until the job has ended, or `until` says so of what `job` says; returns that."""
        until = until or (lambda job: job["JobState"] in ENDED)
        end = time.monotonic() + LIMIT
        while not until(job := self.job(number)):
            if time.monotonic() > end:
                raise TimeoutError(f"job {number} is still {job}\n{self.logs()}")
            time.sleep(0.1)
        return job

    def logs(self) -> str:
        """The last lines of all daemons."""
        files = sorted(self.folder.glob("*.log"))
        return "\n".join("\n".join([file.name, *file.read_text().splitlines()[-15:]]) for file in files)


@contextmanager
def slurm(count: int, cores: int, folder: Path) -> Iterator[Slurm]:
    """A Slurm cluster of `count` nodes "host1", "host2", ... with `cores` cores each, its files in `folder`.

    Raises RuntimeError where it does not come up, with the daemons' logs.
    """
    with hosts(count + 1) as cluster:
        *nodes, head = cluster.nodes
        _configure(head, nodes, cores, folder)
        conf = str(folder / "slurm.conf")
        munged = ["munged", "--foreground", "--force", f"--key-file={folder}/munge/key"]
        munged += [f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid", "--num-threads=2"]
        munged += [f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge/seed"]
        commands = [(head, munged), (head, ["slurmctld", "-D", "-f", conf])]
        commands += [(node, ["slurmd", "-D", "-N", node.name, "-f", conf]) for node in nodes]
        daemons = [
            subprocess.Popen(
                host.command(*command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            for host, command in commands
        ]
        found = Slurm(head, nodes, folder)
        try:
            _wait_for(found, daemons)
            yield found
        finally:
            for host in cluster.nodes:
                host.close()
            for daemon in daemons:
                daemon.wait()


def _configure(head: Host, nodes: Sequence[Host], cores: int, folder: Path) -> None:
    for name in ("munge", "state", *(f"spool.{node.name}" for node in nodes)):
        (folder / name).mkdir(mode=0o700)
    key = folder / "munge" / "key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
    lines = "\n".join(f"NodeName={node.name} NodeAddr={node.address}" for node in nodes)
    text = CONFIGURATION.format(head=head, folder=folder, cores=cores, nodes=lines, expire=5)
    (folder / "slurm.conf").write_text(text)
    for gpu in range(4):
        (folder / f"gpu{gpu}").touch()  # Slurm wants to see a file for each
    (folder / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={folder}/gpu[0-3]\n")
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")


def _wait_for(found: Slurm, daemons: Sequence[subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + LIMIT
    states: list[str] = []
    while states != ["idle"] * len(found.nodes):
        if time.monotonic() > end or any(daemon.poll() is not None for daemon in daemons):
            raise RuntimeError(f"Slurm does not come up, nodes are {states}:\n{found.logs()}")
        try:
            states = found.run("sinfo", "--noheader", "--Node", "--format=%T").split()
        except RuntimeError:  # the controller does not answer yet
            time.sleep(0.1)


def why_not() -> str | None:
    """What Slurm needs and this machine lacks, None if nothing."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        return f"no {', '.join(missing)} (Debian, Ubuntu: apt install slurm-wlm munge)"
    return why_no_hosts()
