"""Checkpoints: the state of a run on disk, from which any number of ranks goes on with the same bits.

May import everything in dtrain. Read first: `checkpointer.py` (what a training script calls), then
`state.py` (state dicts as JSON and arrays), `files.py` (folders that are whole or not there).
"""

from __future__ import annotations

from dtrain.checkpoint.checkpointer import STOPPED, Checkpointer, Stopped

__all__ = ["STOPPED", "Checkpointer", "Stopped"]
