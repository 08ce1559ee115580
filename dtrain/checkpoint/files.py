"""Checkpoints on disk: a folder is whole or not there, and one that has been damaged since says so.

    directory/
        step-00000120/
            state.safetensors   all arrays
            checkpoint.json     the rest, the size and sha256 of state.safetensors, and a sha256 of itself
        .step-00000130.host.1234        being written by process 1234 of that host, or left by its death

A folder is written under its temporary name, its files are brought to the disk (fsync), then it is renamed,
and the renaming is brought to the disk. So whatever ends the process, the checkpoints before are as they were.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from dtrain.backend import Array

__all__ = ["Damaged", "checkpoints", "prepare", "prune", "read", "whole", "write"]

STATE, REST = "state.safetensors", "checkpoint.json"


class Damaged(Exception):
    """Why a checkpoint cannot be used."""


def checkpoints(directory: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every checkpoint that is there, whole or damaged, the newest first."""
    names = [re.fullmatch(r"step-(\d{8,})", name) for name in os.listdir(directory)]
    return sorted(((int(m[1]), directory / m[0]) for m in names if m), reverse=True)


def prepare(directory: Path, nbytes: int) -> None:
    """Make the directory, remove what dead processes have left in it, and see whether `nbytes` can be written.

    Raises OSError that says what is wrong with the directory.
    """
    try:
        new = [folder for folder in (directory, *directory.parents) if not folder.exists()]
        directory.mkdir(parents=True, exist_ok=True)
        for folder in new:
            _to_disk(folder.parent)
        for partial in directory.glob(".*step-*"):
            if not _written_now(partial.name):
                shutil.rmtree(partial)
        probe = _temporary(directory, "step-probe")
        probe.mkdir()
        (probe / REST).write_text("{}")
        shutil.rmtree(probe)
    except OSError as error:
        raise type(error)(error.errno, f"no checkpoint can be written to {directory}: {error.strerror}") from error
    free = shutil.disk_usage(directory).free
    if free < nbytes:
        raise OSError(f"no checkpoint can be written to {directory}: it needs {nbytes:,} bytes, {free:,} are free")


def write(
    directory: Path, step: int, content: Mapping[str, Any], arrays: Mapping[str, Array], prefix: str = ""
) -> Path:
    """Write the checkpoint of a step; it takes the place of an older one of that step. Returns its folder."""
    folder = directory / f"{prefix}step-{step:08d}"
    partial = _temporary(directory, folder.name)
    try:
        partial.mkdir()
        save_file(dict(arrays), partial / STATE)
        _to_disk(partial / STATE)
        with open(partial / STATE, "rb") as file:
            seal = {
                "bytes": os.path.getsize(partial / STATE),
                "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
            }
        (partial / REST).write_text(_sealed({**content, STATE: seal}))
        _to_disk(partial / REST)
        _to_disk(partial)
        old = _take_away(folder)
        os.rename(partial, folder)
        _to_disk(directory)
        if old is not None:
            shutil.rmtree(old)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder


def prune(directory: Path, step: int, keep: int) -> None:
    """Keep the last `keep` checkpoints up to `step`; those beyond it are damaged and are set aside."""
    found = checkpoints(directory)
    for _, folder in [c for c in found if c[0] <= step][keep:]:
        partial = _temporary(directory, folder.name)
        os.rename(folder, partial)
        shutil.rmtree(partial)
    for _, folder in [c for c in found if c[0] > step]:
        _set_aside(folder)


def read(folder: Path) -> tuple[dict[str, Any], bytes]:
    """(what checkpoint.json holds, the bytes of state.safetensors). Raises Damaged with the reason."""
    try:
        text = (folder / REST).read_bytes().decode()
        blob = (folder / STATE).read_bytes()
    except FileNotFoundError as error:
        raise Damaged(f"{Path(error.filename).name} is missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise Damaged(str(error)) from error
    try:
        content = json.loads(text)["content"]
        whole = _sealed(content) == text
    except (ValueError, TypeError, KeyError):
        whole = False
    if not whole:
        raise Damaged(f"{REST} has changed since it was written, or is cut off")
    seal = content.pop(STATE)
    if len(blob) != seal["bytes"]:
        raise Damaged(f"{STATE} has {len(blob)} bytes, of {seal['bytes']} that were written")
    if hashlib.sha256(blob).hexdigest() != seal["sha256"]:
        raise Damaged(f"{STATE} has changed since it was written: its sha256 is another one")
    return content, blob


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """`with whole(file) as temporary: ...`: what is written to `temporary` is then the file, on the disk, or, where an
    error is raised, nothing is left of it and the file is as it was."""
    temporary = _temporary(file.parent, file.name)
    try:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, file)
        _to_disk(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sealed(content: Mapping[str, Any]) -> str:
    """The text of checkpoint.json: reading and writing it again gives the same text, or it was changed."""
    body = json.dumps(content, indent=1)
    return f'{{"content": {body},\n"sha256": "{hashlib.sha256(body.encode()).hexdigest()}"}}\n'


def _temporary(directory: Path, name: str) -> Path:
    return directory / f".{name}.{socket.gethostname()}.{os.getpid()}"


def _written_now(name: str) -> bool:
    """Whether the process that writes under this temporary name may be alive: a process of this host that is."""
    owner, _, pid = name.rpartition(".")
    if not owner.endswith("." + socket.gethostname()) or not pid.isdigit() or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _take_away(folder: Path) -> Path | None:
    """Make room for another checkpoint of this step. Returns where a whole one is now, to be removed when that is
    written; one that is damaged has been skipped before, and is set aside."""
    if not folder.exists():
        return None
    try:
        read(folder)
    except Damaged:
        _set_aside(folder)
        return None
    old = _temporary(folder.parent, f"old-{folder.name}")
    os.rename(folder, old)
    return old


def _set_aside(folder: Path) -> None:
    aside = folder.with_name(folder.name + ".damaged")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)


def _to_disk(path: Path) -> None:
    """Returns when the file, or the directory's list of names, is on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
