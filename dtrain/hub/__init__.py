"""Models and weights that others have published: files of weights, where they come from, repositories of models.

May import everything in dtrain but `models`, which it finds by name. Read first: `packages.py` (weights that
packages carry).
"""

from __future__ import annotations

from dtrain.hub.packages import package_file

__all__ = ["package_file"]
