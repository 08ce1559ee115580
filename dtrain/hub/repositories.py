"""`hub.load('pytorch/vision', 'resnet18', pretrained=True)`: models by the names of PyTorch's hub.

A repository is a module that offers functions, its entry points: the hubconf.py of a folder, or, for the repositories
that dtrain knows, functions of `dtrain.models`. Nothing is ever downloaded and run: an unknown repository of GitHub has
PyTorch's code, not dtrain's.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from dtrain.comm import Communicator
from dtrain.hub.once import once_per_host
from dtrain.hub.weights import HUGGING_FACE, TORCHVISION

__all__ = ["help", "list", "load"]

Entries = dict[str, Callable[..., Any]]

_MODELS = "dtrain.models"  # by name: it imports this package
#: The repositories that dtrain knows, and which of the models' functions are their entry points.
_KNOWN = {
    "pytorch/vision": tuple(TORCHVISION),
    "huggingface/transformers": tuple(HUGGING_FACE),
    "huggingface/pytorch-transformers": tuple(HUGGING_FACE),
}


def load(
    repo_or_dir: str | os.PathLike[str],
    model: str,
    *args: Any,
    source: str = "github",
    trust_repo: bool | str | None = None,
    force_reload: bool = False,
    verbose: bool = True,
    skip_validation: bool = False,
    comm: Communicator | None = None,
    **kwargs: Any,
) -> Any:
    """What the entry point `model` of a repository returns for the other arguments: usually a model.

    repo_or_dir: "pytorch/vision" or "huggingface/transformers", with any ":ref", which means dtrain's models of these
    names; or a folder with a hubconf.py, with source="local" or where it is no repository that dtrain knows.
    pretrained=True, or weights="DEFAULT", are for the entry point, which takes the weights from the cache or downloads
    them: see `load_state_dict_from_url`. ("huggingface/transformers", "model", "gpt2") is the same as (..., "gpt2"); a
    name's "-" is "_" in the entry point's.
    trust_repo, force_reload, verbose and skip_validation are accepted and have nothing to do.
    comm: the job's communicator: one rank per host calls the entry point first, so that it alone downloads, then the
    others do; an error reaches all of them. All ranks call this then.

    Raises ValueError for a repository or entry point that is not there, with those that are; RuntimeError where
    packages are missing that a hubconf.py depends on; FileNotFoundError for a folder without one.
    """
    with _entries(repo_or_dir, source) as entries:
        function = _entry(entries, repo_or_dir, model)
        return once_per_host(comm, lambda: function(*args, **kwargs))


def list(  # noqa: A001  (PyTorch's name)
    github: str | os.PathLike[str],
    force_reload: bool = False,
    skip_validation: bool = False,
    trust_repo: bool | str | None = None,
    verbose: bool = True,
    *,
    source: str = "github",
) -> builtins.list[str]:
    """The names of the entry points of a repository. Arguments and errors as for `load`."""
    with _entries(github, source) as entries:
        return sorted(entries)


def help(  # noqa: A001  (PyTorch's name)
    github: str | os.PathLike[str],
    model: str,
    force_reload: bool = False,
    skip_validation: bool = False,
    trust_repo: bool | str | None = None,
    *,
    source: str = "github",
) -> str | None:
    """The docstring of the entry point `model`. Arguments and errors as for `load`."""
    with _entries(github, source) as entries:
        return _entry(entries, github, model).__doc__


def _entry(entries: Entries, repository: str | os.PathLike[str], name: str) -> Callable[..., Any]:
    if name not in entries:
        raise ValueError(f"{os.fspath(repository)} has no {name!r}; it has {', '.join(sorted(entries))}")
    return entries[name]


@contextmanager
def _entries(repository: str | os.PathLike[str], source: str) -> Iterator[Entries]:
    """The entry points of a repository, by name; while they are in use, they can import what is in its folder."""
    if source not in ("github", "local"):
        raise ValueError(f"source must be 'github' or 'local', got {source!r}")
    name = os.fspath(repository).partition(":")[0]
    if source == "github" and name in _KNOWN:
        yield _known(name)
        return
    folder = Path(repository).expanduser()
    if source == "github" and not (folder / "hubconf.py").is_file():
        raise ValueError(
            f"{os.fspath(repository)!r} is neither a repository whose models dtrain has ({', '.join(_KNOWN)}) nor a "
            "folder with a hubconf.py; other repositories of GitHub hold PyTorch's code: get a copy, let it import "
            "dtrain in place of torch, and give its folder with source='local'"
        )
    sys.path.insert(0, str(folder))
    try:
        module = _hubconf(folder / "hubconf.py")
        yield {name: value for name, value in vars(module).items() if callable(value) and not name.startswith("_")}
    finally:
        sys.path.remove(str(folder))


def _known(repository: str) -> Entries:
    """Functions of dtrain.models."""
    module = importlib.import_module(_MODELS)
    names = {name: name.replace("-", "_").lower() for name in _KNOWN[repository]}
    entries: Entries = {entry: getattr(module, entry) for entry in names.values() if hasattr(module, entry)}
    if repository.startswith("huggingface/"):
        functions = dict(entries)

        def model(name: str, *args: Any, **kwargs: Any) -> Any:
            """The model that Hugging Face has under this name, such as "bert-base-uncased"."""
            entry = name.rpartition("/")[2].replace("-", "_").lower()
            return _entry(functions, repository, entry)(*args, **kwargs)

        entries["model"] = model
    return entries


def _hubconf(file: Path) -> ModuleType:
    """The module of a hubconf.py, run anew."""
    if not file.is_file():
        raise FileNotFoundError(f"{file.parent} has no hubconf.py, which would say what models there are")
    spec = importlib.util.spec_from_file_location("hubconf", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    needed = getattr(module, "dependencies", ())
    missing = [name for name in needed if importlib.util.find_spec(name.partition(".")[0]) is None]
    if missing:
        raise RuntimeError(f"{file} depends on packages that are not installed: {', '.join(missing)}")
    return module
