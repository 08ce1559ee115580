"""The progress bar of a job: global samples, on rank 0."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, cast

__all__ = ["Progress"]

SECONDS_BETWEEN_LINES = 10.0
MPIRUN = ("mpirun", "mpiexec", "mpiexec.hydra", "prterun", "orterun")


class Progress:
    """Iterates over a loader and shows how far all ranks are.

    With a `DataLoader` the unit is the sample, counted over all ranks; with any other iterable it
    is the item. On a terminal, mpirun's too, it is a bar; in a log, a line every 10 seconds and one
    at the end. Where it is not `shown()` it only iterates; that may change when rank 0 is lost.
    """

    def __init__(
        self, loader: Iterable[Any], description: str | None = None, *, shown: Callable[[], bool] = lambda: True
    ) -> None:
        self._loader, self._description, self._shown = loader, description, shown
        self._counts_samples = hasattr(loader, "samples_consumed") and hasattr(loader, "dataset")
        self._postfix: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(cast(Sized, self._loader))

    def __iter__(self) -> Iterator[Any]:
        return self._show()

    def set_postfix(self, **values: Any) -> None:
        """Show these values behind the bar from now on: `set_postfix(loss=0.25)`."""
        self._postfix = values

    def _show(self) -> Iterator[Any]:
        iterator = iter(self._loader)  # begins the epoch, and with it the count
        bar = self._bar(self._done(0)) if self._shown() else None
        try:
            for items, item in enumerate(iterator, 1):
                yield item
                # Only now has the loop's body dealt with it.
                if bar is None and self._shown():
                    bar = self._bar(self._done(items - 1))
                if bar is not None:
                    bar.set_postfix(self._postfix, refresh=False)
                    bar.update(self._done(items) - bar.n)
        finally:
            if bar is not None:
                bar.close()

    def _done(self, items: int) -> int:
        return cast(Any, self._loader).samples_consumed if self._counts_samples else items

    def _total(self) -> int | None:
        loader = cast(Any, self._loader)
        if not self._counts_samples:
            return len(loader) if isinstance(loader, Sized) else None
        samples = len(loader.dataset)
        if hasattr(loader, "steps"):  # with drop_last, fewer
            return min(samples, loader.steps * loader.batch_size)
        return samples

    def _bar(self, done: int) -> Any:
        from tqdm import tqdm

        class Lines(tqdm):
            """A bar for logs: every state is a line of its own, few of them."""

            monitor_interval = 0

            def display(self, msg: str | None = None, pos: int | None = None) -> None:
                if self.n > self.initial:
                    print(msg or str(self), file=sys.stderr, flush=True)

        options: dict[str, Any] = {
            "total": self._total(),
            "initial": done,
            "desc": self._description,
            "unit": " samples" if self._counts_samples else " items",
            "miniters": 1,
        }
        if _stderr_is_a_terminal():
            return tqdm(**options, mininterval=0.1, dynamic_ncols=True)
        return Lines(**options, mininterval=SECONDS_BETWEEN_LINES, ncols=100, file=io.StringIO())


def _stderr_is_a_terminal() -> bool:
    """Whether somebody watches: mpirun puts a pipe between a rank and its own terminal."""
    if sys.stderr.isatty():
        return True
    pid = os.getppid()
    try:
        for _ in range(3):  # rank, perhaps MPICH's proxy, mpirun
            with open(f"/proc/{pid}/stat") as file:
                name, _, rest = file.read().partition("(")[2].rpartition(")")
            if name in MPIRUN:
                return os.readlink(f"/proc/{pid}/fd/2").startswith(("/dev/pts/", "/dev/tty"))
            pid = int(rest.split()[1])
    except (OSError, ValueError):  # no /proc, or not ours to read
        pass
    return False
