"""Runs a script as a rank that is killed at a planned moment; `soak.py` makes the plans.

    python benchmarks/mortal.py PLAN.json train.py ...

The plan is a list of kills, {"rank", "place", "step", "delay"}, which come one after the other, in whatever start
of the job. When the one before has happened, and rank number "rank" (modulo the ranks there are) comes to a place

    start        the start of the process
    step         a forward pass
    checkpoint   a checkpoint, on rank 0 and on others
    evaluation   a forward pass of an evaluation
    epoch        between epochs: before the first batch is loaded

of this step or a later one, it is killed (signal 9) "delay" seconds later: by a process of its own, which notices
neither what Python nor what MPI holds on to.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Killer", "main"]


class Killer:
    """A child process that kills a rank when it is told to, and leaves a note of it."""

    def __init__(self, plan: Path) -> None:
        self.plan: list[dict[str, Any]] = json.loads(plan.read_text())
        self.notes = plan.with_suffix("")
        self.told = False
        heard, self.tell = os.pipe()
        if os.fork() == 0:
            os.close(self.tell)
            order = os.read(heard, 1000)  # nothing when the rank has ended
            if order:
                self._kill(*json.loads(order))
            os._exit(0)
        os.close(heard)

    def next_kill(self) -> int:
        """The number of the kill that comes next: those before have left their notes."""
        return sum((self.notes / str(i)).exists() for i in range(len(self.plan)))

    def comes_to(self, place: str, step: int, rank: int, size: int) -> None:
        """This rank is at such a place: is it now?"""
        number = self.next_kill()
        if self.told or number == len(self.plan):
            return
        kill = self.plan[number]
        if kill["place"] == place and step >= kill["step"] and rank == kill["rank"] % size:
            self.told = True
            os.write(self.tell, json.dumps([number, os.getpid(), kill["delay"]]).encode())

    def _kill(self, number: int, pid: int, delay: float) -> None:
        time.sleep(delay)
        try:
            os.close(os.open(self.notes / str(number), os.O_CREAT | os.O_EXCL))
        except FileExistsError:  # another rank was faster, which the first one's death has made the victim
            return
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # it has ended
            os.unlink(self.notes / str(number))


def main() -> None:
    killer = Killer(Path(sys.argv[1]))
    names = [n for n in ("OMPI_COMM_WORLD", "PMI") if f"{n}_RANK" in os.environ]
    rank, size = (int(os.environ[f"{names[0]}_{what}"]) for what in ("RANK", "SIZE"))
    killer.comes_to("start", 0, rank, size)

    from dtrain import DistributedDataParallel
    from dtrain.checkpoint import Checkpointer
    from dtrain.data import DataLoader

    def notice(owner: type, name: str, place: str, step: Callable[[Any], int]) -> None:
        function = getattr(owner, name)

        def noticed(self: Any, *args: Any, **options: Any) -> Any:
            comm = self._comm if owner is DataLoader else self.comm
            killer.comes_to(place, step(self), comm.rank, comm.size)
            return function(self, *args, **options)

        setattr(owner, name, noticed)

    notice(DistributedDataParallel, "forward", "step", lambda model: model.position["steps"])
    notice(DistributedDataParallel, "_without_gradients", "evaluation", lambda model: model.position["steps"])
    notice(Checkpointer, "save", "checkpoint", lambda checkpointer: checkpointer.steps)
    notice(DataLoader, "__iter__", "epoch", lambda loader: loader.epoch * loader.steps)
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
