"""Where the IDX files of a dataset are on this machine, and how to get them."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import socket
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from dtrain.data.idx import unpacked

__all__ = ["FILES", "Source", "fetch", "find", "store"]

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)

_SECONDS_PER_CONNECTION = 20


@dataclass(frozen=True)
class Source:
    """A dataset of the four FILES.

    folder: its folder below $DTRAIN_DATA and in the cache; raw: its folder below `root`, as
    torchvision lays it out; sha256: of each of FILES, or of its decompressed content;
    installed: folders where a system package puts the files.
    """

    name: str
    folder: str
    raw: str
    url: str
    sha256: tuple[str, ...] = field(repr=False)
    installed: tuple[str, ...] = ()

    @property
    def cache(self) -> Path:
        """Where downloads go."""
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(base).expanduser() / "dtrain" / self.folder

    def places(self, root: str | Path | None = None) -> list[Path]:
        """The folders to look in, in order. With a root: only there."""
        if root is not None:
            return [Path(root).expanduser(), Path(root).expanduser() / self.raw]
        own = os.environ.get("DTRAIN_DATA")
        chosen = [Path(own).expanduser() / self.folder, Path(own).expanduser()] if own else []
        return [*chosen, *map(Path, self.installed), self.cache]


def find(
    source: Source, train: bool, root: str | Path | None = None, *, downloading: bool = False
) -> tuple[Path, Path] | None:
    """The files of images and of labels in the first place that has them; None where no place does.

    Raises FileNotFoundError when a place has one of the two files only, unless it is the cache or
    this job is `downloading`: then another process may be getting the other one now.
    """
    part = "train" if train else "t10k"
    names = (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
    for place in source.places(root):
        images, labels = (_plain_or_packed(place / name) for name in names)
        if images and labels:
            return images, labels
        present = images or labels
        if present and not downloading and place != source.cache:
            missing = names[0] if labels else names[1]
            raise FileNotFoundError(
                f"{place} has {present.name} but neither {missing} nor {missing}.gz; "
                "put it there, or take the other away"
            )
    return None


def _plain_or_packed(path: Path) -> Path | None:
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    return None


def store(source: Source, name: str, data: bytes, folder: Path) -> None:
    """Write the .gz file `name` into `folder`, whole or not at all. ValueError: wrong sha256."""
    found = [hashlib.sha256(content).hexdigest() for content in (data, unpacked(data, name))]
    expected = source.sha256[FILES.index(name)]
    if expected not in found:
        raise ValueError(
            f"{name}: found {len(data)} bytes with sha256 {found[0]}, content {found[1]}; "
            f"expected {expected}; what was sent is not {source.name}"
        )
    part = folder / f".{name}.{socket.gethostname()}.{os.getpid()}.part"
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / name)
    finally:
        part.unlink(missing_ok=True)


def fetch(source: Source, folder: Path) -> None:
    """Download the files that `folder` lacks. One process per host does it, the others wait for it.

    Raises OSError when a file cannot be had, ValueError when it is not the right one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed
        for name in FILES:
            if _plain_or_packed(folder / name.removesuffix(".gz")):
                continue
            url = source.url + name
            print(f"dtrain: downloading {url}", file=sys.stderr, flush=True)
            try:
                with urllib.request.urlopen(url, timeout=_SECONDS_PER_CONNECTION) as response:
                    data = response.read()
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", error)
                raise OSError(
                    f"could not download {url}: {reason}; on a machine that is offline, copy the file into {folder}"
                ) from error
            store(source, name, data, folder)
