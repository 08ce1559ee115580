"""Models and weights that others have published: files of weights, where they come from, repositories of models.

May import everything in dtrain but `models`, which it finds by name. Read first: `serialization.py` (`dtrain.load` and
`dtrain.save`), then `torch_files.py` (PyTorch's formats), `pickles.py` (a reader of pickles that runs nothing),
`storages.py` (what tensors are in them), `pickling.py` (the writer). Then `repositories.py` (`hub.load`), `weights.py`
(what is published where), `download.py`.

`hub.load` makes a model, `dtrain.load` reads a file, as torch.hub.load and torch.load do.
"""

from __future__ import annotations

from dtrain.data.packages import package_file
from dtrain.hub.cache import get_dir, set_dir
from dtrain.hub.download import download_url_to_file, load_state_dict_from_url
from dtrain.hub.repositories import help, list, load
from dtrain.hub.tensor_files import load_file, save_file
from dtrain.hub.weights import published_state_dict

__all__ = [
    "download_url_to_file",
    "get_dir",
    "help",
    "list",
    "load",
    "load_file",
    "load_state_dict_from_url",
    "package_file",
    "published_state_dict",
    "save_file",
    "set_dir",
]
