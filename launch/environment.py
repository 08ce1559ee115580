"""What the launcher says about this process, in environment variables, before MPI is started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["World", "launched_world", "may_lose_ranks"]

# Slurm numbers the batch script itself, salloc's shell and the like from here on.
NO_STEP_OF_TASKS = 0xFFFFFFF0


@dataclass(frozen=True)
class World:
    """The ranks that a launcher has started: this one's number, how many, and who says so."""

    size: int
    rank: int
    local_rank: int
    variable: str  # the environment variable that holds the size
    launcher: str  # in words, for messages


def launched_world(environment: Mapping[str, str] = os.environ) -> World | None:
    """What the environment says, or None for a process that no launcher has started.

    mpirun's variables come before Slurm's: inside an allocation mpirun starts its ranks through
    srun, whose variables then count daemons.
    """
    if "OMPI_COMM_WORLD_SIZE" in environment:
        return _world(
            environment,
            ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
            "mpirun of Open MPI",
        )
    if "PMI_SIZE" in environment:
        srun = "MPI_LOCALRANKID" not in environment and "SLURM_LOCALID" in environment
        return _world(
            environment,
            ("PMI_SIZE", "PMI_RANK", "SLURM_LOCALID" if srun else "MPI_LOCALRANKID"),
            "srun with PMI" if srun else "mpirun of MPICH or Intel MPI",
        )
    step = environment.get("SLURM_STEP_ID", "")
    if "SLURM_PROCID" in environment and step.isdigit() and int(step) < NO_STEP_OF_TASKS:
        size = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
        if size in environment:
            return _world(environment, (size, "SLURM_PROCID", "SLURM_LOCALID"), "srun")
    return None


def may_lose_ranks(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether mpirun goes on when ranks die: `mpirun --with-ft ulfm` of Open MPI sets this variable."""
    return environment.get("OMPI_MCA_mpi_ft_enable") == "1"


def _world(environment: Mapping[str, str], names: tuple[str, str, str], launcher: str) -> World:
    def number(name: str, default: str | None = None) -> int:
        text = environment.get(name, default)
        if text is None or not text.isdigit():
            raise RuntimeError(
                f"{names[0]}={environment[names[0]]} says that {launcher} started this process, "
                f"but {name} is {'not set' if text is None else repr(text)}; "
                f"unset {names[0]} to run one process without MPI"
            )
        return int(text)

    size, rank, local_rank = number(names[0]), number(names[1], "0"), number(names[2], "0")
    return World(size, rank, local_rank, names[0], launcher)
