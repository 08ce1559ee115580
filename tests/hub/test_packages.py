"""Files out of packages of PyPI."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from dtrain import hub

from .packages import G2P, MINILM, MOBILENET_V2, RESEMBLYZER, package_file


@pytest.mark.parametrize(
    ("package", "sha256"),
    [
        (MOBILENET_V2, "b0353104"),
        (MINILM, "53aa51172d142c89"),
        (RESEMBLYZER, ""),
        (G2P, ""),
    ],
)
def test_the_weights_are_those_that_were_published(package: tuple[str, str, str], sha256: str) -> None:
    with package_file(*package).open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest().startswith(sha256)


def test_what_a_package_lacks(tmp_path: Path) -> None:
    (tmp_path / "thing-1.0").mkdir()
    with pytest.raises(FileNotFoundError, match=r"thing-1.0: expected one file like \*.pth, found 0"):
        hub.package_file("thing", "1.0", "*.pth", tmp_path)


def test_a_package_that_pip_cannot_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: slow\nERROR: No matching distribution found for thing\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: failed)
    with pytest.raises(OSError, match="thing 1.0: ERROR: No matching distribution"):
        hub.package_file("thing", "1.0", "*.pth", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".thing-1.0.lock"]
