"""JapaneseVowels: its files out of a package, and what it says where there are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dtrain.data import JapaneseVowels
from tests.hub.packages import package_file


@pytest.fixture(scope="module")
def folder() -> Path:
    return package_file(*JapaneseVowels.package, "JapaneseVowels_TRAIN.ts").parent


def test_all_utterances(folder: Path) -> None:
    train, test = JapaneseVowels(folder), JapaneseVowels(folder, train=False)
    assert (len(train), len(test)) == (270, 370)
    assert np.bincount(train.targets).tolist() == [30] * 9
    assert np.bincount(test.targets).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    lengths = {len(x) for x in train.sequences + test.sequences}
    assert min(lengths) == 7 and max(lengths) == 29
    x, y = train[0]
    assert x.shape == (20, 12) and x.dtype == np.float32 and y == 0
    np.testing.assert_array_equal(x.array[:2, :2], np.float32([[1.860936, -0.207383], [1.891651, -0.193249]]))


def test_downloaded_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
    asked = []

    def from_package(name: str, version: str, pattern: str, temporary: Path) -> Path:
        asked.append(pattern)
        (temporary / pattern).write_bytes((folder / pattern).read_bytes())
        return temporary / pattern

    monkeypatch.setattr("dtrain.data.japanese_vowels.package_file", from_package)
    for train in (True, False):
        assert len(JapaneseVowels(tmp_path, train, download=True)) in (270, 370)
    assert asked == ["JapaneseVowels_TRAIN.ts", "JapaneseVowels_TEST.ts"]
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == sorted(asked)


def test_places(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("DTRAIN_DATA", str(folder))
    assert len(JapaneseVowels()) == 270
    monkeypatch.delenv("DTRAIN_DATA")
    with pytest.raises(FileNotFoundError, match=r"no JapaneseVowels_TRAIN.ts in .*japanese-vowels; pass download=True"):
        JapaneseVowels()


def test_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "JapaneseVowels_TEST.ts").write_text("@data\n1,2:3,4:1\n")
    with pytest.raises(ValueError, match="16 bytes with sha256 .* expected b3d41d6a"):
        JapaneseVowels(tmp_path, train=False)
