"""The outcome of a step, which is the same on all ranks: its loss, and whether a rank was asked to stop."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["Outcome"]


class Outcome:
    """`loss`, the mean over the step's global batch, and `stopping`, of the step named by `where` ("in step 3").

    read() gives both. It is called when one of them is first asked for: on a GPU that waits for the step's end.
    check: raise FloatingPointError then for a loss that is NaN or infinite.
    """

    def __init__(self, read: Callable[[], tuple[float, bool]], where: str, check: bool) -> None:
        self.read, self.where, self.check = read, where, check
        self._values: tuple[float, bool] | None = None

    @classmethod
    def known(cls, loss: float) -> Outcome:
        """That of a step which is over, or, with NaN, of none."""
        return cls(lambda: (loss, False), "", check=False)

    @property
    def loss(self) -> float:
        return self.look()[0]

    @property
    def stopping(self) -> bool:
        return self.look()[1]

    def look(self) -> tuple[float, bool]:
        """Both, read once."""
        if self._values is None:
            self._values = self.read()
            if self.check and not math.isfinite(self._values[0]):
                raise FloatingPointError(f"the loss is {self._values[0]} {self.where}")
        return self._values
