"""Ranks that go on when others die, by the User-Level Failure Mitigation of MPI (ULFM; Open MPI 5, `--with-ft ulfm`).

When a rank dies, a collective in which another one waits for it fails there, and maybe nowhere else. Whoever
notices revokes all communicators, so that everybody notices. At the end of an `attempt` the ranks agree, in a way
that deaths cannot divide them, on whether all have done it; if not, they shrink their communicators to the ranks
that are left and agree once more. So every rank takes the same sequence of agreements and shrinkings:

    agree, agree, agree: not done, shrink and agree: all have a new communicator, agree, ...
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from dtrain.comm.communicator import Array, Communicator
from dtrain.comm.lost import RankLost
from dtrain.comm.mail import Mail
from dtrain.comm.mpi import MPICommunicator
from dtrain.comm.process import state_of
from dtrain.comm.waits import Calls

__all__ = ["SurvivingCommunicator"]

T = TypeVar("T")

NEWS = 1.0  # seconds until the news of a death has come, at most
MADE, DONE = 2, 1  # bits of what a rank says after shrinking: it has new communicators; it has done what was attempted


class SurvivingCommunicator(MPICommunicator):
    """An `MPICommunicator` whose ranks can go on when others die.

    Its methods, and those of its groups and windows, raise RankLost then; `attempt` repairs it. After that it is
    the communicator of the ranks that are left, in their old order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.survives = True
        self._lost = False  # a rank has died: nothing will be finished in this generation
        self._disagreed = False  # all ranks know, and shrink next
        self._root = self  # of its groups too
        self._mails: list[_Mail] = []
        # Arrays of collectives that have failed: MPI may still write to them.
        self._abandoned: list[Array] = []

    def _new_calls(self, ranks: Sequence[int]) -> Calls:
        return _Calls(ranks, self)

    def attempt(self, function: Callable[..., T], *args: Any) -> tuple[bool, T | None]:
        result = None
        try:
            result = function(*args)
            done = not self._lost
        except RankLost:
            done = False
        if self._agree(done) or self._go_on(done):
            return True, result
        return False, None

    def farewell(self) -> None:
        """Returns when all ranks have called this, or have died; on rank 0, when the others have died after it."""
        with _without_losses():
            barrier = self._comm.Ibarrier()
            while not barrier.Test():
                time.sleep(1e-3)
        deadline = time.monotonic() + 10.0
        while self.rank == 0 and self._comm.Get_failed().Get_size() < self.size - 1 and time.monotonic() < deadline:
            time.sleep(1e-3)
            with _without_losses():
                self._comm.Iprobe()  # the news comes with messages

    # -- noticing --------------------------------------------------------------------------------

    def has_lost(self, reason: str) -> RankLost:
        """A rank has died. Makes sure that all notice, and returns what to raise."""
        root = self._root
        if not root._lost:
            root._lost = True
            root._revoke()
        return RankLost(
            f"{reason}; this is no place from which the ranks that are left can go on, as the steps of a model "
            "and what is run by job.retry are: start the job again from a checkpoint (python -m launch --restarts)"
        )

    def knows_of_a_loss(self, error: BaseException) -> bool:
        """Whether an error in a collective comes with a death: some of Open MPI's raise MPI_ERR_OTHER then, and some
        succeed with what nobody has sent, which mpi4py cannot unpickle or find memory for."""
        from mpi4py import MPI

        if not isinstance(error, Exception):
            return False
        comms = (self._comm, self._twin_comm)
        deadline = time.monotonic() + (0.0 if isinstance(error, MPI.Exception) else NEWS)
        while not any(c.Is_revoked() or c.Get_failed().Get_size() for c in comms):
            if time.monotonic() >= deadline:
                return False
            time.sleep(1e-3)
            with _without_losses():
                self._comm.Iprobe()  # the news comes with messages
        return True

    def _revoke(self) -> None:
        groups = [group for group in (self, self._host_group, self._lane_group) if isinstance(group, MPICommunicator)]
        for group in groups:
            for comm in (group._comm, group._twin_comm):
                comm.Revoke()

    def is_late(self, rank: int) -> None:
        """A rank of this host does not come to a meeting in shared memory. Raises RankLost where one has died."""
        if state_of(self.processes[rank][1]) in ("", "Z", "X"):
            raise self.has_lost(f"rank {rank} of {self.name} has died")
        try:
            self._comm.Iprobe()  # the news of another's death comes with messages
        except Exception as error:
            if is_loss(error):
                raise self.has_lost(str(error)) from error
            raise

    # -- going on --------------------------------------------------------------------------------

    def _agree(self, done: bool) -> bool:
        """Whether all ranks say so. If not, all shrink next, whatever they were at."""
        if not self._disagreed:
            try:
                with self._calls("agree"):
                    self._disagreed = not self._comm.Agree(int(done))
            except RankLost:
                self._disagreed = True
        return not self._disagreed

    def _go_on(self, done: bool) -> bool:
        """Become the communicator of the ranks that are left; whether all of them are done."""
        noted = Calls(self.ranks)
        self.waits.add("going on", noted)
        self._revoke()
        comm, said = self._comm, 0
        while not said & MADE:
            with noted("shrink"):
                comm = comm.Shrink()
            try:
                with noted("duplicate"):
                    new = self._communicators(comm)
                made = MADE
            except Exception as error:  # another one has died
                if not is_loss(error):
                    raise
                made = 0
                comm.Revoke()
            try:
                with noted("agree"):
                    said = comm.Agree(made | (DONE if done else 0))
            except Exception as error:
                if not is_loss(error):
                    raise
                said = 0
        self._settle(comm, *new)
        return bool(said & DONE)

    def _communicators(self, comm: Any) -> tuple[Any, Any, list[Any]]:
        """What is made of the new communicator: that of the helper thread, of this host, of the mails."""
        local = comm.Split(self.places[self.rank][0], comm.rank)
        return comm.Dup(), local, [comm.Dup() for _ in self._mails]

    def _settle(self, comm: Any, twin: Any, local: Any, mails: list[Any]) -> None:
        """Take the place among the ranks that are left."""
        left = comm.Get_group().Translate_ranks(None, self._comm.Get_group())  # their old numbers
        lost = [
            f"rank {r} ({self.processes[r][1]} on {self.processes[r][0]})" for r in range(self.size) if r not in left
        ]
        hosts = [self.places[r][0] for r in left]
        numbers = list(dict.fromkeys(hosts))
        places = [(numbers.index(host), hosts[:i].count(host)) for i, host in enumerate(hosts)]
        self.processes = [self.processes[r] for r in left]
        self.generation += 1
        self._lost = self._disagreed = False
        self._use(comm, twin, local)
        self._take_place(comm.rank, places)
        self.waits.clear()
        self._note("all ranks", range(self.size))
        for mail, its in zip(self._mails, mails, strict=True):
            mail.move(its)
        if self.rank == 0:
            many = "ranks go" if self.size > 1 else "rank goes"
            print(f"dtrain: {', '.join(lost)} lost; {self.size} {many} on", file=sys.stderr, flush=True)

    # -- groups and mail -------------------------------------------------------------------------

    def host_group(self) -> Communicator:
        return self._made(super().host_group) if self._host_group is None else self._host_group

    def lane_group(self) -> Communicator | None:
        return self._made(super().lane_group) if self._lane_group is ... else self._lane_group

    def _made(self, make: Callable[[], T]) -> T:
        """A group that all have made, or none: a rank that has one would wait in it for one that has not."""
        try:
            group = make()
            made = True
        except RankLost:
            made = False
        if not self._agree(made):
            raise self.has_lost("a group of ranks could not be made")
        return group

    def mail(self) -> Mail:
        mail = _Mail(self._comm)
        self._mails.append(mail)
        return mail


def is_loss(error: BaseException) -> bool:
    """Whether an error of mpi4py says that a rank has died, or that another one has noticed it."""
    from mpi4py import MPI

    classes = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED)
    return isinstance(error, MPI.Exception) and error.Get_error_class() in classes


class _Calls(Calls):
    """Collectives that raise RankLost where MPI says that a rank has died."""

    def __init__(self, ranks: Sequence[int], comm: SurvivingCommunicator) -> None:
        super().__init__(ranks)
        self._comm, self._generation = comm, comm.generation
        self._arrays: tuple[Array, ...] = ()

    def __call__(self, what: str, *arrays: Array) -> Calls:
        self._arrays = arrays
        return super().__call__(what)

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        arrays, self._arrays = self._arrays, ()
        if error is None or not (is_loss(error) or self._comm.knows_of_a_loss(error)):
            return
        self._comm._abandoned.extend(arrays)
        if self._generation != self._comm._root.generation:
            raise RankLost(f"{error}: this was started before ranks were lost") from error
        raise self._comm.has_lost(str(error)) from error


class _Mail(Mail):
    """Mail among ranks of which some may have died."""

    def move(self, mpi_comm: Any) -> None:
        """From now on over this communicator, of the ranks that are left."""
        self._comm = mpi_comm

    def send(self, rank: int, value: Any) -> None:
        with _without_losses():
            super().send(rank, value)

    def look(self) -> Iterator[tuple[int, Any]]:
        with _without_losses():
            yield from super().look()

    def farewell(self) -> Callable[[], bool]:
        have_all_left = super().farewell()

        def test() -> bool:
            with _without_losses():
                return have_all_left()
            return True  # who waits for a rank that has died waits for nobody

        return test


@contextmanager
def _without_losses() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_loss(error):
            raise
