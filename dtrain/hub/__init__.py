"""Models and weights that others have published: files of weights, where they come from, repositories of models.

May import everything in dtrain but `models`, which it finds by name. Read first: `serialization.py` (`dtrain.load` and
`dtrain.save`), then `torch_files.py` (PyTorch's formats), `pickles.py` (a reader of pickles that runs nothing),
`storages.py` (what tensors are in them), `pickling.py` (the writer).
"""

from __future__ import annotations

from dtrain.hub.packages import package_file
from dtrain.hub.tensor_files import load_file, save_file

__all__ = ["load_file", "package_file", "save_file"]
