"""What is raised where ranks have died and the job is one that may go on without them."""

from __future__ import annotations

__all__ = ["RankLost"]


class RankLost(RuntimeError):
    """Ranks of the job have died, and what the others were doing with them cannot be finished.

    Raised by any method of a communicator that `survives`, on every rank that is left, until `attempt` has made
    it the communicator of the ranks that are left.
    """
