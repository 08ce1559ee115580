"""The MPI of this Python environment: which it is, where its mpirun is, and what it needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = [
    "before_mpi_starts",
    "family_of",
    "find_mpirun",
    "library_family",
    "mpirun_family",
    "settings",
    "start_mpi_under_srun",
]

FAMILIES = {  # what each says of itself, in `mpirun --version` or MPI_Get_library_version
    "Intel": "Intel MPI",  # before MPICH, on which it is built
    "HYDRA": "MPICH",
    "MPICH": "MPICH",
    "MVAPICH": "MPICH",
    "Open MPI": "Open MPI",
    "OpenRTE": "Open MPI",
}


def family_of(text: str) -> str | None:
    """Which MPI this text comes from: "MPICH", "Open MPI", "Intel MPI" or None."""
    return next((family for word, family in FAMILIES.items() if word in text), None)


def find_mpirun() -> str:
    """The mpirun of this Python environment, else the one on PATH.

    Raises FileNotFoundError where there is neither.
    """
    beside = Path(sys.executable).parent
    found = shutil.which("mpirun", path=str(beside)) or shutil.which("mpirun")
    if found is None:
        raise FileNotFoundError(
            f"no mpirun in {beside} or on PATH; pip install mpich, or load your cluster's MPI, or use -n 1"
        )
    return found


def mpirun_family(mpirun: str) -> tuple[str | None, str]:
    """The family of this mpirun and its version's text."""
    result = subprocess.run([mpirun, "--version"], capture_output=True, text=True)
    text = (result.stdout + result.stderr).strip()
    return family_of(text), text


def library_family() -> tuple[str | None, str]:
    """The family of the MPI library that mpi4py loads here, and its version's text.

    In a process of its own: loading MPI belongs to the ranks. Raises RuntimeError where it fails.
    """
    code = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(
            f"mpi4py cannot be imported by {sys.executable} ({reason}); pip install mpi4py mpich, or use -n 1"
        )
    text = result.stdout.strip("\n\0")
    return family_of(text), text


def before_mpi_starts() -> None:
    """What Open MPI is to know when it starts in this process, however that was started; the user's choice stays.

    Two ranks that send each other a large message by TCP would do so one after the other: each asks for the other's
    data behind its own, on the same connection ("put"). Without that they send pieces, both at once: on a link of
    1 Gbit/s at 0.95 Gbit/s in place of 0.55.
    """
    os.environ.setdefault("OMPI_MCA_btl_tcp_flags", "send,inplace,need-ack,need-csum,hetero-rdma")


def start_mpi_under_srun() -> None:
    """Start MPI in a process of srun, unless it has been: MPICH of two transports over libfabric, not UCX.

    MPICH 5 sends addresses of UCX with whatever is behind them in memory, and Slurm's pmi2 reads lines of at most
    1024 characters: over several nodes MPI_Init fails or not, as that memory happens to be.
    """
    import mpi4py

    mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
    from mpi4py import MPI

    if MPI.Is_initialized():
        return
    device = re.search(r"^MPICH Device:(.*)$", MPI.Get_library_version(), re.MULTILINE)
    if device is not None and "ofi" in device[1]:
        os.environ.setdefault("MPIR_CVAR_CH4_NETMOD", "ofi")
    MPI.Init_thread(MPI.THREAD_MULTIPLE)


def settings(family: str | None, ranks: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment variables that mpirun of this family needs here for so many ranks.

    What the user has set stays. MPICH and Intel MPI need nothing.
    """
    if family != "Open MPI":
        return {}
    wanted = {
        # Open MPI would bind one or two ranks to one core each, with all their threads.
        "PRTE_MCA_hwloc_default_binding_policy": "none",
        "OMPI_MCA_hwloc_base_binding_policy": "none",
    }
    if os.geteuid() == 0:
        wanted |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if not _given_hosts(environment):
        if ranks > len(os.sched_getaffinity(0)):
            # A core is shared by ranks: a wait must let others run. Else it must not: the kernel lets a thread that has
            # given way wait for long, and the helper thread's looks at its messages come late.
            wanted["OMPI_MCA_mpi_yield_when_idle"] = "1"
        wanted |= {
            # More ranks than cores: version 5 reads the first, version 4 the second.
            "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
            "OMPI_MCA_rmaps_base_oversubscribe": "1",
        }
        # On one host these start six times faster. They belong together.
        if not {"OMPI_MCA_pml", "OMPI_MCA_btl"} & set(environment):
            wanted |= {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "^ofi"}
    return {name: value for name, value in wanted.items() if name not in environment}


def _given_hosts(environment: Mapping[str, str]) -> bool:
    """Whether a batch system or the user gives mpirun its hosts and their slots."""
    batch = {"SLURM_JOB_ID", "PBS_NODEFILE", "LSB_HOSTS", "PE_HOSTFILE"}
    user = {"PRTE_MCA_prte_default_hostfile", "OMPI_MCA_orte_default_hostfile"}
    return not (batch | user).isdisjoint(environment)
