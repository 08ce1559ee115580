"""The folder of what was downloaded, and where else a file of weights may lie already."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

__all__ = ["checkpoints", "find", "get_dir", "hash_in", "set_dir", "sha256_of"]

_chosen: list[Path] = []  # what set_dir was given last


def get_dir() -> str:
    """The hub's folder: what `set_dir` was given, else $DTRAIN_HOME/hub, else hub in ~/.cache/dtrain, where data sets
    are cached too ($XDG_CACHE_HOME, if set, in place of ~/.cache). Weights are in its folder `checkpoints`."""
    if _chosen:
        return str(_chosen[-1])
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "dtrain"
    return str(Path(os.environ.get("DTRAIN_HOME") or base).expanduser() / "hub")


def set_dir(d: str | os.PathLike[str]) -> None:
    """From now on, in this process, the hub's folder is `d`."""
    _chosen[:] = [Path(d).expanduser()]


def checkpoints(model_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder into which weights are downloaded."""
    return Path(get_dir()) / "checkpoints" if model_dir is None else Path(model_dir).expanduser()


def find(name: str, sha256: str | None, model_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """The file in the cache, else in PyTorch's ($TORCH_HOME, else ~/.cache/torch), which is only read; None if in none.

    sha256: of the file, or how it begins; a file that has another one is not found. None: it is not asked.
    With a `model_dir`: only there.
    """
    torch = Path(os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch")
    places = [checkpoints(model_dir)]
    if model_dir is None:
        places.append(torch.expanduser() / "hub" / "checkpoints")
    for place in places:
        file = place / name
        if file.is_file() and (sha256 is None or sha256_of(file).startswith(sha256)):
            return file
    return None


def hash_in(name: str) -> str | None:
    """The beginning of the sha256 in a name like resnet18-f37072fd.pth, None where there is none."""
    found = re.search(r"-([0-9a-f]{8,64})\.", name)
    return found[1] if found else None


def sha256_of(file: Path) -> str:
    """The file's sha256 in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
