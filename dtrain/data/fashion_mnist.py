"""python -m dtrain.data.fashion_mnist: get the full Fashion-MNIST, or say that the subset will do.

Looks where `data.FashionMNIST` looks; else unpacks Debian's package into the cache, which needs no
root; else downloads. Exits 0 unless files that were found are damaged.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from dtrain.data.mnist import FashionMNIST
from dtrain.data.sources import FILES, fetch, find, store

__all__ = ["from_debian", "main", "make_subset"]

_PACKAGE = "dataset-fashion-mnist"
_SECONDS_FOR_DEBIAN = 60


def main(arguments: list[str] | None = None) -> None:
    """The command; prints one line per step."""
    parser = argparse.ArgumentParser(prog="python -m dtrain.data.fashion_mnist", description=__doc__)
    parser.add_argument("--make-subset", metavar="FILE", help="write the embedded subset, and stop")
    options = parser.parse_args(arguments)
    try:
        if options.make_subset:
            make_subset(Path(options.make_subset))
        else:
            get()
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"Fashion-MNIST: {error}") from None


def get() -> None:
    """Find the full set, or try each way to get it in turn."""
    source = FashionMNIST.source
    if _found():
        return
    print(f"Fashion-MNIST: not in {', '.join(map(str, source.places()))}", flush=True)
    ways = (
        ("to unpack Debian's package", from_debian),
        ("to download it", lambda folder: fetch(source, folder)),
    )
    for name, way in ways:
        print(f"Fashion-MNIST: trying {name}", flush=True)
        try:
            way(source.cache)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            print(f"Fashion-MNIST: that does not work here: {error}", flush=True)
        else:
            if _found():
                return
    print("Fashion-MNIST: the embedded subset of 6,000 + 1,000 images will be used", flush=True)


def _found() -> bool:
    """Whether all four files are there; reads them, so that damaged ones raise ValueError now."""
    if not all(find(FashionMNIST.source, train) for train in (True, False)):
        return False
    for train in (True, False):
        images = FashionMNIST(train=train)
        print(f"Fashion-MNIST: {len(images):,} images found in {images.origin}", flush=True)
    return True


def from_debian(folder: Path) -> None:
    """Unpack the files of Debian's package into `folder`; OSError where that is impossible."""
    for command in ("apt-get", "dpkg-deb"):
        if shutil.which(command) is None:
            raise OSError(f"there is no {command}")
    source = FashionMNIST.source
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        _quietly(["apt-get", "download", "-q", _PACKAGE], temporary)
        [package] = temporary.glob("*.deb")
        _quietly(["dpkg-deb", "-x", package.name, "."], temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for file in FILES:
            [unpacked] = temporary.rglob(file)
            store(source, file, unpacked.read_bytes(), folder)


def _quietly(command: list[str], folder: Path) -> None:
    # Into a file: a pipe kept open by a child of a killed command would be waited for.
    with (folder / "log").open("w+") as log:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            timeout=_SECONDS_FOR_DEBIAN,
        )
        if done.returncode:
            log.seek(0)
            lines = log.read().split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "no message")
            raise OSError(f"{' '.join(command[:2])} failed: {last}")


def make_subset(file: Path) -> None:
    """Write the first 600 training and 100 test images of each class, in the full set's order."""
    arrays: dict[str, Any] = {}
    for part, train, of_each in (("train", True, 600), ("test", False, 100)):
        full = FashionMNIST(train=train)
        classes = range(len(full.classes))
        first = [np.flatnonzero(full.targets == label)[:of_each] for label in classes]
        keep = np.sort(np.concatenate(first))
        arrays[f"{part}_images"] = full.data[keep]
        arrays[f"{part}_labels"] = full.targets[keep].astype(np.uint8)
    np.savez_compressed(file, **arrays)
    print(f"wrote {file}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
