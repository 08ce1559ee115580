"""examples/char_lm.py: the same bits and the same sentences at any number of ranks, on a text that is made up here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.examples.programs import EXAMPLES, run_example
from tests.launch.jobs import needs_mpi


@pytest.fixture
def text(tmp_path: Path) -> str:
    """6,000 characters of few words in random order."""
    words = ["and", "the", "king", "said", "unto", "him", "go", "forth,", "for", "it", "is", "written."]
    drawn = np.random.Generator(np.random.Philox(key=1)).integers(0, len(words), 1500)
    (tmp_path / "text.txt").write_text(" ".join(words[i] for i in drawn)[:6000])
    return str(tmp_path / "text.txt")


SMALL = ("--length", "16", "--width", "32", "--layers", "1", "--prompt", "the ", "--sample", "40")


@needs_mpi
def test_the_same_bits_and_sentences_at_any_number_of_ranks(text: str) -> None:
    """An epoch has 356 windows, in steps of 65: its last step has 31, and the run goes on in a second one."""
    results = []
    for ranks in (0, 1, 2, 4):
        done = run_example("char_lm.py", *SMALL, "--text", text, "--steps", "8", "--batch-size", "65", ranks=ranks)
        assert done.returncode == 0, done.stdout + done.stderr
        *sentences, last = done.stdout.splitlines()
        result = json.loads(last)
        assert result.pop("ranks") == max(ranks, 1) and result.pop("characters_per_second") > 0
        assert "\n".join(sentences).startswith("the ") and len("\n".join(sentences)) == 44
        results.append((sentences, result))
    assert all(result == results[0] for result in results), results


def test_it_learns(text: str) -> None:
    """A word has little more than 3.7 bits, of which its letters share; letters drawn alike would have 4.3 each."""
    done = run_example("char_lm.py", *SMALL, "--text", text, "--steps", "150", "--lr", "0.01")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["bits_per_character"] < 1.6


def test_it_is_short() -> None:
    assert len((EXAMPLES / "char_lm.py").read_text().splitlines()) <= 120
