"""Text to tokens, as BERT takes them. Wu et al., arXiv:1609.08144; Devlin et al., arXiv:1810.04805."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from dtrain.autograd import Tensor

__all__ = ["WordPiece"]

_LONGEST_WORD = 100  # what is longer is one unknown word


class WordPiece:
    """BERT's tokenizer for models of text in lower case: words and punctuation, cut into the longest known pieces.

        tokenizer = WordPiece("vocab.txt")
        input_ids, attention_mask = tokenizer(["A sentence.", "Another, longer one."])

    vocabulary: a file with one token a line, or the tokens; pieces within a word begin with "##".
    lower: whether text is made lower-case, and its accents are taken away ("uncased" models).
    """

    def __init__(self, vocabulary: str | Path | Iterable[str], lower: bool = True) -> None:
        if isinstance(vocabulary, (str, Path)):
            vocabulary = Path(vocabulary).read_text(encoding="utf-8").splitlines()
        self.tokens = list(vocabulary)
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.lower = lower

    def __call__(self, texts: Sequence[str], max_length: int = 512) -> tuple[Tensor, Tensor]:
        """input_ids and attention_mask, (N, T) int64: [CLS], the text's tokens, [SEP], then padding, with mask 0.

        T is the longest text's; tokens beyond max_length are left out.
        """
        pieces = [self.tokenize(text)[: max_length - 2] for text in texts]
        length = max((len(p) for p in pieces), default=0) + 2
        ids = np.full((len(texts), length), self.ids["[PAD]"])
        for row, p in zip(ids, pieces, strict=True):
            row[: len(p) + 2] = [self.ids[token] for token in ("[CLS]", *p, "[SEP]")]
        lengths = np.array([len(p) + 2 for p in pieces])
        return Tensor(ids), Tensor((np.arange(length) < lengths[:, None]).astype(np.int64))

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text, as strings."""
        return [piece for word in self._words(text) for piece in self._pieces(word)]

    def _words(self, text: str) -> Iterator[str]:
        """Words, and each sign of punctuation and each Chinese character as one."""
        text = unicodedata.normalize("NFC", text)
        if self.lower:
            text = unicodedata.normalize("NFD", text.lower())
            text = "".join(c for c in text if unicodedata.category(c) != "Mn")
        spaced = []
        for c in text:
            if c in "\t\n\r" or unicodedata.category(c) == "Zs":
                spaced.append(" ")
            elif ord(c) and c != "\ufffd" and unicodedata.category(c) not in ("Cc", "Cf"):
                spaced.append(f" {c} " if _stands_alone(c) else c)
        yield from "".join(spaced).split()

    def _pieces(self, word: str) -> list[str]:
        pieces: list[str] = []
        start = 0
        while start < len(word) <= _LONGEST_WORD:
            for end in range(len(word), start, -1):
                piece = word[start:end] if start == 0 else f"##{word[start:end]}"
                if piece in self.ids:
                    pieces.append(piece)
                    start = end
                    break
            else:
                return ["[UNK]"]
        return pieces or ["[UNK]"]


def _stands_alone(c: str) -> bool:
    code = ord(c)
    ascii_sign = code < 128 and not c.isalnum() and not c.isspace() and code > 32
    chinese = any(
        lo <= code <= hi
        for lo, hi in (
            (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF), (0xF900, 0xFAFF),
            (0x2F800, 0x2FA1F),
        )
    )  # fmt: skip
    return ascii_sign or chinese or unicodedata.category(c).startswith("P")
