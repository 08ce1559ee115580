"""Files from the network: resumed where the connection breaks, checked, and under their names only when whole."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dtrain.comm import Communicator
from dtrain.hub.cache import checkpoints, find, hash_in, sha256_of
from dtrain.hub.once import once_per_host
from dtrain.hub.serialization import load

__all__ = ["download_url_to_file", "load_state_dict_from_url"]

_SECONDS = 20  # without an answer, or any bytes
_TRIES = 5  # in turn that bring nothing
_SECONDS_BETWEEN = 0.5
_CHUNK = 1 << 20  # bytes


def load_state_dict_from_url(
    url: str,
    model_dir: str | os.PathLike[str] | None = None,
    map_location: Any = None,
    progress: bool = True,
    check_hash: bool | str = False,
    file_name: str | None = None,
    weights_only: bool = True,
    *,
    comm: Communicator | None = None,
) -> Any:
    """What dtrain.load reads of the file at `url`, which is downloaded unless it is there already.

    model_dir: where to look, and where to put it; default: the hub's folder `checkpoints`, see `get_dir`; PyTorch's
    folder is looked into, too, and left as it is. file_name: default: the last part of the URL.
    check_hash: True asks for a name like resnet18-f37072fd.pth, with the beginning of the file's sha256; a str is that
    sha256, or its beginning. A file that has another one is not used. progress: show a bar, where stderr is a terminal.
    comm: the job's communicator: one rank per host downloads, the others wait, and an error reaches all of them. All
    ranks call this then. A wait counts for the job's watchdog; `python -m dtrain.hub.fetch` downloads before the job.
    Raises OSError where the file cannot be had, with all that is needed to put it there by hand; ValueError where what
    was sent has another sha256; and what dtrain.load raises.
    """
    name = file_name or Path(urllib.parse.urlparse(url).path).name
    sha256 = hash_in(name) if check_hash is True else (check_hash or None)
    if check_hash is True and sha256 is None:
        raise ValueError(f"{name} has no sha256 in its name, as name-0123abcd.pth has; pass check_hash='0123abcd...'")
    here = checkpoints(model_dir)

    def get() -> Path:
        found = find(name, sha256, model_dir)
        if found is None:
            with _locked(here / name):
                found = find(name, sha256, model_dir)  # another process may have had the lock
                if found is None:
                    _download(url, here / name, sha256, progress)
        return found or here / name

    return load(once_per_host(comm, get), map_location=map_location, weights_only=weights_only)


def download_url_to_file(
    url: str, dst: str | os.PathLike[str], hash_prefix: str | None = None, progress: bool = True
) -> None:
    """Download `url` to the file `dst`, which is replaced when all has come, and never by a part.

    hash_prefix: how the file's sha256 begins. With it, a part that an earlier call has left is gone on from.
    progress: show a bar, where stderr is a terminal. Processes of a host that want the same file take turns.
    Raises OSError where it cannot be had, ValueError where its sha256 is another one.
    """
    dst = Path(dst)
    with _locked(dst):
        _download(url, dst, hash_prefix, progress)


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One process of this host at a time; the folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f".{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed
        yield


def _download(url: str, file: Path, sha256: str | None, progress: bool) -> None:
    part = file.with_name(f".{file.name}.{socket.gethostname()}.part")  # one host's, where a folder is shared
    if sha256 is None:  # what there is of it may be of another file
        part.unlink(missing_ok=True)
    began = part.stat().st_size if part.exists() else 0
    print(f"dtrain: downloading {url} to {file}", file=sys.stderr, flush=True)
    try:
        _fill(url, part, progress)
        if began and sha256 and not sha256_of(part).startswith(sha256):
            part.unlink()  # what there was of it was something else
            _fill(url, part, progress)
    except (OSError, http.client.HTTPException, _Torn) as error:
        if sha256 is None:
            part.unlink(missing_ok=True)
        raise OSError(_by_hand(url, file, sha256, error)) from error
    if sha256 and not (found := sha256_of(part)).startswith(sha256):
        size = part.stat().st_size
        part.unlink()
        raise ValueError(
            f"{url} sent {size:,} bytes with sha256 {found}; expected {sha256}: another file, which is not kept"
        )
    with part.open("rb") as content:
        os.fsync(content.fileno())
    os.replace(part, file)


def _by_hand(url: str, file: Path, sha256: str | None, error: BaseException) -> str:
    """Why there is no file, and what to do."""
    reason = getattr(error, "reason", None) or error
    if isinstance(error, urllib.error.HTTPError):
        reason = f"the server answers {error.code} {error.reason}"
    wrong = ""
    if file.is_file() and sha256:
        wrong = f" (the file that is there has sha256 {sha256_of(file)}: it is damaged, or another one)"
    known = f"sha256 {sha256}{'' if len(sha256) == 64 else '...'}" if sha256 else "whose sha256 is not known"
    return (
        f"could not download {url}: {reason}. Where there is no network, get the file elsewhere, and put it into "
        f"{file.parent} as {file.name}, {known}{wrong}"
    )


class _Torn(Exception):
    """Less has come than there is."""


def _fill(url: str, part: Path, progress: bool) -> None:
    """Bring the file `part` to its full size. Raises what the last of several tries raised that brought nothing."""
    tries, came = 0, False
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return _try(url, part, before, progress)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and before:  # no such range: the part is whole, or not of this file
                if error.headers.get("Content-Range") == f"bytes */{before}":
                    return None
                part.unlink()
            elif error.code < 500 and error.code != 429:
                raise
            failed: Exception = error
        except (OSError, http.client.HTTPException, _Torn) as error:
            failed = error
        after = part.stat().st_size if part.exists() else 0
        came = came or after > before
        tries = 0 if after > before else tries + 1
        offline = isinstance(failed, urllib.error.URLError) and not isinstance(failed, urllib.error.HTTPError)
        if tries == _TRIES or (offline and not came):
            raise failed
        time.sleep(_SECONDS_BETWEEN * tries)


def _try(url: str, part: Path, have: int, progress: bool) -> None:
    """Append to `part`, which has `have` bytes, what it lacks. Raises _Torn where the connection ends too early."""
    headers = {"User-Agent": "dtrain", **({"Range": f"bytes={have}-"} if have else {})}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_SECONDS) as response:
        if have and getattr(response, "status", None) != 206:
            have = 0  # the server sends all of it
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("r+b" if have else "wb") as file, _bar(part, have, total, progress) as bar:
            file.seek(have)
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
    if total is not None and have != total:
        raise _Torn(f"the connection ended after {have:,} of {total:,} bytes")


def _bar(part: Path, have: int, total: int | None, progress: bool) -> Any:
    from tqdm import tqdm

    options: dict[str, Any] = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "dynamic_ncols": True}
    name = part.name[1:].removesuffix(f".{socket.gethostname()}.part")
    return tqdm(desc=name, total=total, initial=have, disable=None if progress else True, **options)
